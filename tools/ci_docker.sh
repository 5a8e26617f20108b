#!/bin/sh
# Make Docker ready for the tests of containers: ci_docker.sh ROOT_FOLDER. For root on Debian.
# Installs the engine from Debian's packages, starts it, and makes a base image where no registry
# can be reached. Prints the settings that the tests need, one NAME=VALUE a line.
set -eu
folder=$1
suite=bookworm
base=sosp23-debian:$suite
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() {
    echo "docker for tests: $1" >&2
}

command -v dockerd >/dev/null && command -v debootstrap >/dev/null || {
    say "installing docker.io and debootstrap"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        docker.io debootstrap iptables >&2
}

mkdir -p "$folder"
if ! docker info >/dev/null 2>&1; then
    say "starting dockerd (its log: $folder/dockerd.log)"
    nohup dockerd >"$folder/dockerd.log" 2>&1 &
    echo $! >"$folder/dockerd.pid"
    tries=0
    until docker info >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 60 ]; then
            tail -5 "$folder/dockerd.log" >&2
            say "dockerd does not answer"
            exit 1
        fi
        sleep 1
    done
fi

recipe=$(cksum <"$0" | cut -d' ' -f1)
label='{{index .Config.Labels "sosp23.base"}}'
if [ "$(docker image inspect --format "$label" "$base" 2>/dev/null)" != "$recipe" ]; then
    say "making $base with debootstrap (a minute or two)"
    root=$folder/debian
    rm -rf "$root"
    debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$folder/debootstrap.log" 2>&1 || {
        tail -5 "$folder/debootstrap.log" >&2
        exit 1
    }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | docker import --change "LABEL sosp23.base=$recipe" - "$base" >&2
    rm -rf "$root"
fi

# PyTorch for the images' Python comes from wherever pip finds it here, checked by the lock's hash.
extra=containers/extra
torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' containers/locks/cpu.txt)
ls "$extra"/torch-"$torch"-*.whl >/dev/null 2>&1 ||
    python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 \
        --dest "$extra" "torch==$torch" >&2

echo "BENCH_TEST_DOCKER=required"
echo "BENCH_BUILD_ARGS=BASE_IMAGE=$base TORCH_INDEX= EXTRA_CA=${PIP_CERT:-}"
