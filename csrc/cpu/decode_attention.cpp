// Decode attention on a CPU: threads share out sequences, or parts of their heads.
#include "attend.h"
#include "tasks.h"

namespace astra {
namespace {

constexpr int kTasksEach = 4;  // for every thread, at least, if there are as many heads

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

}  // namespace

int64_t decode_attention_workspace(const AttentionArguments& a, const Launch& launch) {
  return launch.num_threads * scratch_floats(a);
}

Status launch_decode_attention(const AttentionArguments& a, float* workspace,
                               const Launch& launch) {
  const Attend attend = find_attend(a.dtype, a.head_size);
  if (attend == nullptr) return kUnsupported;
  if (a.num_seqs == 0) return kDone;
  const int heads = heads_together(a, launch);             // key/value heads of one task
  const int parts = (a.num_kv_heads + heads - 1) / heads;  // tasks of one sequence
  const int group = a.num_heads / a.num_kv_heads;
  for_tasks(int64_t{a.num_seqs} * parts, context_bytes(a), launch, [&](int64_t task, int worker) {
    const int seq = static_cast<int>(task / parts), part = static_cast<int>(task % parts);
    SequenceAttention attention(a, attend, seq, workspace + worker * scratch_floats(a));
    const int start = attention.context().start;
    const int length = a.context_lens[seq] > start ? a.context_lens[seq] - start : 0;
    const int begin = part * heads;
    for (int kv_head = begin; kv_head < begin + heads && kv_head < a.num_kv_heads; ++kv_head) {
      attention.add(group, kv_head, [&](int i) { return Query{seq, kv_head * group + i, length}; });
    }
    attention.finish();
  });
  return kDone;
}

}  // namespace astra
