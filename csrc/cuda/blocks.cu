// Copying blocks on the device, and swapping them with host memory.
//
// Pairs and pointers travel as kernel parameters: no transfer of indices, no synchronisation. A
// swap gathers the blocks of all caches side by side into staging memory, where one host block is
// one stretch of bytes, and neighbouring host blocks go in a single transfer.
#include "common.cuh"

namespace astra {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxCaches = 256;  // of one launch; both lists fit the 4 KiB of parameters
constexpr int kMaxPairs = 128;
constexpr int kWordsPerThread = 8;

enum class Move { kWithin, kToStaging, kFromStaging };

struct MoveArguments {
  char* caches[kMaxCaches];
  int from[kMaxPairs];
  int to[kMaxPairs];
  char* staging;
  int64_t staging_stride;  // bytes of one block of all caches
  int first_cache;
  int64_t block_words;     // of 16 bytes
};

// Grid: pairs, caches, parts of a block.
template <Move kMove>
__global__ void __launch_bounds__(kThreads) move_kernel(const MoveArguments m) {
  const int pair = blockIdx.x, cache = blockIdx.y;
  auto in_cache = [&](int block) {
    return reinterpret_cast<uint4*>(m.caches[cache]) + block * m.block_words;
  };
  auto in_staging = [&](int block) {
    return reinterpret_cast<uint4*>(m.staging + block * m.staging_stride) +
           (m.first_cache + cache) * m.block_words;
  };
  const int source = m.from[pair], target = m.to[pair];
  const uint4* from = kMove == Move::kFromStaging ? in_staging(source) : in_cache(source);
  uint4* to = kMove == Move::kToStaging ? in_staging(target) : in_cache(target);
  const int64_t step = int64_t{gridDim.z} * kThreads;
  for (int64_t i = blockIdx.z * kThreads + threadIdx.x; i < m.block_words; i += step) {
    to[i] = from[i];
  }
}

int count_of(int64_t left, int most) { return left < most ? static_cast<int>(left) : most; }

// Moves `count` pairs' blocks, at most kMaxPairs; the i-th in staging memory is block i there.
template <Move kMove>
Status move_blocks(const BlockArguments& b, void* staging, const int64_t* pairs, int count,
                   const Launch& launch) {
  MoveArguments m{};
  m.staging = static_cast<char*>(staging);
  m.staging_stride = b.block_bytes * b.num_caches;
  m.block_words = b.block_bytes / 16;
  for (int i = 0; i < count; ++i) {
    m.from[i] = kMove == Move::kFromStaging ? i : static_cast<int>(pairs[2 * i]);
    m.to[i] = kMove == Move::kToStaging ? i : static_cast<int>(pairs[2 * i + 1]);
  }
  const int parts = static_cast<int>((m.block_words - 1) / (kThreads * kWordsPerThread)) + 1;
  for (int first = 0; first < b.num_caches; first += kMaxCaches) {
    const int num_caches = smaller(kMaxCaches, b.num_caches - first);
    m.first_cache = first;
    for (int c = 0; c < num_caches; ++c) m.caches[c] = static_cast<char*>(b.caches[first + c]);
    const dim3 grid(count, num_caches, smaller(parts, 64));
    const Status status = launch_kernel(move_kernel<kMove>, grid, dim3(kThreads), 0, launch, m);
    if (status != kDone) return status;
  }
  return kDone;
}

// Copies bytes to the host if it is `out`, else to the device.
Status transfer(bool out, char* host, char* device, int64_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(out ? host : device, out ? device : host, bytes, cudaMemcpyDefault,
                         stream);
}

// Every block of every cache in a transfer of its own.
Status swap_one_by_one(const SwapArguments& s, cudaStream_t stream) {
  const BlockArguments& b = s.blocks;
  const bool out = s.direction == SwapDirection::kOut;
  for (int64_t i = 0; i < b.num_pairs; ++i) {
    const int64_t block = b.pairs[2 * i + (out ? 0 : 1)], row = b.pairs[2 * i + (out ? 1 : 0)];
    for (int c = 0; c < b.num_caches; ++c) {
      char* device = static_cast<char*>(b.caches[c]) + block * b.block_bytes;
      char* host = static_cast<char*>(s.host_pool) + (row * b.num_caches + c) * b.block_bytes;
      const Status status = transfer(out, host, device, b.block_bytes, stream);
      if (status != kDone) return status;
    }
  }
  return kDone;
}

// Transfers `count` rows of the staging memory; neighbours in the host pool go together.
Status transfer_rows(const SwapArguments& s, const int64_t* pairs, int count, cudaStream_t stream) {
  const bool out = s.direction == SwapDirection::kOut;
  const int64_t row_bytes = s.blocks.block_bytes * s.blocks.num_caches;
  auto host_row = [&](int i) { return pairs[2 * i + (out ? 1 : 0)]; };
  for (int first = 0; first < count;) {
    int last = first + 1;
    while (last < count && host_row(last) == host_row(last - 1) + 1) ++last;
    char* host = static_cast<char*>(s.host_pool) + host_row(first) * row_bytes;
    char* device = static_cast<char*>(s.staging) + first * row_bytes;
    const Status status = transfer(out, host, device, (last - first) * row_bytes, stream);
    if (status != kDone) return status;
    first = last;
  }
  return kDone;
}

}  // namespace

Status launch_copy_blocks(const BlockArguments& b, const Launch& launch) {
  for (int64_t done = 0; done < b.num_pairs; done += kMaxPairs) {
    const int64_t* pairs = b.pairs + 2 * done;
    const int count = count_of(b.num_pairs - done, kMaxPairs);
    const Status status = move_blocks<Move::kWithin>(b, nullptr, pairs, count, launch);
    if (status != kDone) return status;
  }
  return kDone;
}

Status launch_swap_blocks(const SwapArguments& s, const Launch& launch) {
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  if (s.staging_blocks == 0) return swap_one_by_one(s, stream);
  const bool out = s.direction == SwapDirection::kOut;
  const int most = count_of(s.staging_blocks, kMaxPairs);
  // Everything runs in the stream's order, so the staging memory can be used again at once.
  for (int64_t done = 0; done < s.blocks.num_pairs; done += most) {
    const int64_t* pairs = s.blocks.pairs + 2 * done;
    const int count = count_of(s.blocks.num_pairs - done, most);
    Status status = kDone;
    if (out) status = move_blocks<Move::kToStaging>(s.blocks, s.staging, pairs, count, launch);
    if (status == kDone) status = transfer_rows(s, pairs, count, stream);
    if (status == kDone && !out) {
      status = move_blocks<Move::kFromStaging>(s.blocks, s.staging, pairs, count, launch);
    }
    if (status != kDone) return status;
  }
  return kDone;
}

const char* status_text(Status status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

}  // namespace astra
