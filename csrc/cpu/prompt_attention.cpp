// Prompt attention over a cached prefix on a CPU: threads share out (sequence, head, tile of
// queries). The keys and values of the queries themselves are already in the cache.
#include "attend.h"

namespace astra {
namespace {

constexpr int kQueryTile = 32;  // queries of one task

struct Work {
  const AttentionArguments* arguments;
  Attend attend;
  float* workspace;
  int tiles;  // of a sequence
};

void attend_tile(const Work& work, int seq, int head, int tile, float* scratch) {
  const AttentionArguments& a = *work.arguments;
  const int first = a.query_starts[seq];
  const int num_queries = a.query_starts[seq + 1] - first;
  const int prefix = a.context_lens[seq] - num_queries;
  const int32_t own_block = seq;
  const SequenceContext context = sequence_context(a, seq, &own_block);
  const int kv_head = head / (a.num_heads / a.num_kv_heads);
  const int end = num_queries < (tile + 1) * kQueryTile ? num_queries : (tile + 1) * kQueryTile;
  RowBatch batch;
  for (int i = tile * kQueryTile; i < end;) {
    const int count = i + kRowGroup <= end ? kRowGroup : 1;
    if (!batch.fits(count)) {
      work.attend(context, batch, a.scale, scratch);
      batch = {};
    }
    GroupWriter rows(batch, count, kv_head);
    for (int r = 0; r < count; ++r) rows.add(a, first + i + r, head, prefix + i + r + 1);
    i += count;
  }
  if (batch.num_groups > 0) work.attend(context, batch, a.scale, scratch);
}

void run_tasks(TaskQueue& queue, void* opaque) {
  const Work& work = *static_cast<const Work*>(opaque);
  const AttentionArguments& a = *work.arguments;
  float* scratch = work.workspace + queue.join() * scratch_floats(a);
  for (int64_t task; queue.take(&task);) {
    const auto head_index = static_cast<int>(task / work.tiles);
    attend_tile(work, head_index / a.num_heads, head_index % a.num_heads,
                static_cast<int>(task % work.tiles), scratch);
  }
}

}  // namespace

int64_t prompt_attention_workspace(const AttentionArguments& a, const Launch& launch) {
  return launch.num_threads * scratch_floats(a);
}

Status launch_prompt_attention(const AttentionArguments& a, float* workspace,
                               const Launch& launch) {
  const int tiles = (a.max_query_len + kQueryTile - 1) / kQueryTile;
  Work work{&a, find_attend(a.dtype, a.head_size), workspace, tiles};
  if (work.attend == nullptr) return kUnsupported;
  const int64_t num_tasks = int64_t{tiles} * a.num_seqs * a.num_heads;
  TaskQueue queue(num_tasks, useful_threads(num_tasks, tiles * context_bytes(a), launch));
  launch.run(queue, run_tasks, &work);
  return kDone;
}

}  // namespace astra
