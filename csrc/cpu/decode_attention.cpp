// Decode attention on a CPU: threads share out (sequence, key/value head) pairs.
#include "attend.h"

namespace astra {
namespace {

struct Work {
  const AttentionArguments* arguments;
  AttendFunctions attend;
  float* workspace;
};

void attend_heads(const Work& work, int seq, int kv_head, float* scratch) {
  const AttentionArguments& a = *work.arguments;
  const int32_t own_block = seq;
  const HeadContext context = head_context(a, seq, kv_head, &own_block);
  const int group = a.num_heads / a.num_kv_heads;
  const int length = a.context_lens[seq] > context.start ? a.context_lens[seq] - context.start : 0;
  for (int head = 0; head < group;) {
    const int count = head + kRowGroup <= group ? kRowGroup : 1;
    RowGroup rows;
    for (int r = 0; r < count; ++r) set_row(rows, r, a, seq, kv_head * group + head + r, length);
    (count == 1 ? work.attend.one : work.attend.many)(context, rows, a.scale, scratch);
    head += count;
  }
}

void run_tasks(TaskQueue& queue, void* opaque) {
  const Work& work = *static_cast<const Work*>(opaque);
  const AttentionArguments& a = *work.arguments;
  float* scratch = work.workspace + queue.join() * scratch_floats(a);
  for (int64_t task; queue.take(&task);) {
    attend_heads(work, static_cast<int>(task / a.num_kv_heads),
                 static_cast<int>(task % a.num_kv_heads), scratch);
  }
}

}  // namespace

int64_t decode_attention_workspace(const AttentionArguments& a, const Launch& launch) {
  return launch.num_threads * scratch_floats(a);
}

Status launch_decode_attention(const AttentionArguments& a, float* workspace,
                               const Launch& launch) {
  Work work{&a, find_attend(a.dtype, a.head_size), workspace};
  if (work.attend.one == nullptr) return kUnsupported;
  const int64_t num_tasks = int64_t{a.num_seqs} * a.num_kv_heads;
  TaskQueue queue(num_tasks, useful_threads(num_tasks, context_bytes(a), launch));
  launch.run(queue, run_tasks, &work);
  return kDone;
}

}  // namespace astra
