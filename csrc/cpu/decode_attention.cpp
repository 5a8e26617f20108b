// Decode attention on a CPU: threads share out sequences, or parts of their heads.
#include "attend.h"

namespace astra {
namespace {

constexpr int kTasksEach = 4;  // for every thread, at least, if there are as many heads

struct Work {
  const AttentionArguments* arguments;
  Attend attend;
  float* workspace;
  int heads;  // key/value heads of one task
  int parts;  // tasks of one sequence
};

// As many heads as a call takes, since their tiles are fetched one after the other without a pause,
// but so few that all threads get their share.
int heads_together(const AttentionArguments& a, const Launch& launch) {
  const int64_t wanted = int64_t{kTasksEach} * launch.num_threads;
  const int64_t parts = (wanted + a.num_seqs - 1) / a.num_seqs;  // of a sequence, at least
  const int64_t even = a.num_kv_heads / parts;
  const int64_t most = kMostRows / (a.num_heads / a.num_kv_heads);
  const int64_t heads = even < most ? even : most;
  return heads < 1 ? 1 : static_cast<int>(heads);
}

void attend_heads(const Work& work, int seq, int part, float* scratch) {
  const AttentionArguments& a = *work.arguments;
  const int32_t own_block = seq;
  const SequenceContext context = sequence_context(a, seq, &own_block);
  const int group = a.num_heads / a.num_kv_heads;
  const int length = a.context_lens[seq] > context.start ? a.context_lens[seq] - context.start : 0;
  const int begin = part * work.heads;
  const int end = begin + work.heads < a.num_kv_heads ? begin + work.heads : a.num_kv_heads;
  RowBatch batch;
  for (int kv_head = begin; kv_head < end; ++kv_head) {
    for (int head = 0; head < group;) {
      const int count = head + kRowGroup <= group ? kRowGroup : 1;
      if (!batch.fits(count)) {
        work.attend(context, batch, a.scale, scratch);
        batch = {};
      }
      GroupWriter rows(batch, count, kv_head);
      for (int r = 0; r < count; ++r) rows.add(a, seq, kv_head * group + head + r, length);
      head += count;
    }
  }
  work.attend(context, batch, a.scale, scratch);
}

void run_tasks(TaskQueue& queue, void* opaque) {
  const Work& work = *static_cast<const Work*>(opaque);
  float* scratch = work.workspace + queue.join() * scratch_floats(*work.arguments);
  for (int64_t task; queue.take(&task);) {
    attend_heads(work, static_cast<int>(task / work.parts), static_cast<int>(task % work.parts),
                 scratch);
  }
}

}  // namespace

int64_t decode_attention_workspace(const AttentionArguments& a, const Launch& launch) {
  return launch.num_threads * scratch_floats(a);
}

Status launch_decode_attention(const AttentionArguments& a, float* workspace,
                               const Launch& launch) {
  Work work{&a, find_attend(a.dtype, a.head_size), workspace};
  if (work.attend == nullptr) return kUnsupported;
  if (a.num_seqs == 0) return kDone;
  work.heads = heads_together(a, launch);
  work.parts = (a.num_kv_heads + work.heads - 1) / work.heads;
  const int64_t num_tasks = int64_t{a.num_seqs} * work.parts;
  TaskQueue queue(num_tasks, useful_threads(num_tasks, context_bytes(a), launch));
  launch.run(queue, run_tasks, &work);
  return kDone;
}

}  // namespace astra
