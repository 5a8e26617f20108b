// Tasks of a kernel on a CPU, handed out one by one to the threads of torch's own pool.
#pragma once

#include "../kernels.h"

namespace astra {

// As many threads as there are tasks and as the bytes to be moved are worth waking.
inline int useful_threads(int64_t num_tasks, int64_t bytes, const Launch& launch) {
  const int64_t by_bytes = bytes / (64 * 1024);
  const int64_t useful = by_bytes < num_tasks ? by_bytes : num_tasks;
  if (useful <= 1) return 1;
  return useful < launch.num_threads ? static_cast<int>(useful) : launch.num_threads;
}

// Calls run(task, worker) for every task; `worker`, below launch.num_threads, is a thread's own.
template <class Run>
void for_tasks(int64_t num_tasks, int64_t bytes, const Launch& launch, const Run& run) {
  struct Shared {
    const Run& run;
    int64_t num_tasks;
    int64_t next_task = 0;
    int next_worker = 0;
  } shared{run, num_tasks};
  launch.run(
      useful_threads(num_tasks, bytes, launch),
      [](void* opaque) {
        auto& s = *static_cast<Shared*>(opaque);
        const int worker = __atomic_fetch_add(&s.next_worker, 1, __ATOMIC_RELAXED);
        for (;;) {
          const int64_t task = __atomic_fetch_add(&s.next_task, 1, __ATOMIC_RELAXED);
          if (task >= s.num_tasks) return;
          s.run(task, worker);
        }
      },
      &shared);
}

}  // namespace astra
