// Prompt attention over a cached prefix on a CPU: threads share out (sequence, head, tile of
// queries). The keys and values of the queries themselves are already in the cache.
#include "attend.h"
#include "tasks.h"

namespace astra {
namespace {

constexpr int kQueryTile = 32;  // queries of one task

}  // namespace

int64_t prompt_attention_workspace(const AttentionArguments& a, const Launch& launch) {
  return launch.num_threads * scratch_floats(a);
}

Status launch_prompt_attention(const AttentionArguments& a, float* workspace,
                               const Launch& launch) {
  const Attend attend = find_attend(a.dtype, a.head_size);
  if (attend == nullptr) return kUnsupported;
  const int tiles = (a.max_query_len + kQueryTile - 1) / kQueryTile;  // of a sequence
  const int64_t num_tasks = int64_t{tiles} * a.num_seqs * a.num_heads;
  for_tasks(num_tasks, tiles * context_bytes(a), launch, [&](int64_t task, int worker) {
    const int tile_start = static_cast<int>(task % tiles) * kQueryTile;
    const int head = static_cast<int>(task / tiles % a.num_heads);
    const int seq = static_cast<int>(task / tiles / a.num_heads);
    const int first = a.query_starts[seq];
    const int num_queries = a.query_starts[seq + 1] - first;
    const int prefix = a.context_lens[seq] - num_queries;
    const int left = num_queries - tile_start;
    SequenceAttention attention(a, attend, seq, workspace + worker * scratch_floats(a));
    attention.add(left < kQueryTile ? left : kQueryTile, head / (a.num_heads / a.num_kv_heads),
                  [&](int i) {
                    const int at = tile_start + i;
                    return Query{first + at, head, prefix + at + 1};
                  });
    attention.finish();
  });
  return kDone;
}

}  // namespace astra
