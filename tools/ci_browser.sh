#!/bin/sh
# Make a browser ready for the tests of the report's page. For root on Debian: installs Chromium from
# Debian's packages unless one is there. Prints the settings that the tests need, one NAME=VALUE a
# line; where none can be installed it says so, prints nothing, and those tests are skipped.
# Likewise axe-core, the accessibility checker, where npm is there to fetch it.
set -u

say() {
    echo "browser for tests: $1" >&2
}

# The names that tests/helpers/browser.py looks for.
present() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null && return
    done
    return 1
}

present || {
    say "installing chromium"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive timeout 900 apt-get install -y -qq --no-install-recommends \
        chromium fonts-dejavu-core >&2
}
present || {
    say "chromium cannot be installed here: the tests of the page in a browser are skipped"
    exit 0
}
echo "BENCH_TEST_BROWSER=required"

axe=axe-core-4.14.1
folder=${TMPDIR:-/tmp}/sosp23-$axe
mkdir -p "$folder"
if [ -f "$folder/package/axe.min.js" ] || {
    command -v npm >/dev/null && cd "$folder" &&
        timeout 120 npm pack --silent "${axe%-*}@${axe##*-}" >&2 && tar -xzf "$axe.tgz"
}; then
    echo "BENCH_TEST_AXE=$folder/package/axe.min.js"
else
    say "$axe is not to be had here (npm pack): the accessibility checker is skipped"
fi
