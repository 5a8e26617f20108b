#!/bin/sh
# Build NVIDIA's FasterTransformer v5.3 into a folder: ft_library.sh FOLDER. For NVIDIA's PyTorch
# image: the library needs its MPI-enabled torch with the C++11 ABI.
# CUDA_ARCHITECTURES: as for our kernels, such as sm_80,sm_90.
set -eu
folder=$1
sources=/build/ft
library=d21dc02bc5f70bc7dc0d18ba5801ae263565e68e
cutlass=cc85b64cf676c45f98a17e3a47c0aafcf817f088

fetch() { # URL COMMIT FOLDER; git checks that the content is the commit's
    git init --quiet "$3"
    git -C "$3" fetch --quiet --depth 1 "$1" "$2"
    git -C "$3" checkout --quiet FETCH_HEAD
    rm -rf "$3/.git" # else its build system would fetch all submodules
}
fetch https://github.com/NVIDIA/FasterTransformer.git "$library" "$sources"
fetch https://github.com/NVIDIA/cutlass.git "$cutlass" "$sources/3rdparty/cutlass"

# Its build system searches this text for the numbers that it knows.
numbers=$(echo "${CUDA_ARCHITECTURES:-sm_80,sm_90}" | sed 's/sm_//g')
cmake -S "$sources" -B "$sources/build" -DSM="$numbers" -DCMAKE_BUILD_TYPE=Release \
    -DBUILD_PYT=ON -DBUILD_MULTI_GPU=ON -DPYTHON_PATH=/opt/conda/bin/python3
cmake --build "$sources/build" --target th_transformer --parallel "$(nproc)"

mkdir -p "$folder/lib" "$folder/python/utils" "$folder/bin"
cp "$sources/build/lib/libth_transformer.so" "$folder/lib/"
cp "$sources/examples/pytorch/gpt/utils/gpt.py" "$sources/examples/pytorch/gpt/utils/parallel_gpt.py" \
    "$folder/python/utils/"
touch "$folder/python/utils/__init__.py"
cp "$sources/LICENSE" "$folder/LICENSE"
cp /build/ft_worker.py "$folder/python/"
cp /build/ft_worker.sh "$folder/bin/ft-worker"
chmod 755 "$folder/bin/ft-worker"
echo "$library" > "$folder/COMMIT"
