// Shares the parts of a call between the threads of XLA's own pool.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace learned_opt {

// Runs `part(data, worker, p)` for p = 0 .. num_parts - 1 on the calling thread and on up to
// `max_workers - 1` threads of the pool. `worker` is below `max_workers`, and no two threads share
// one. The calling thread works too, and it never waits for a helper that has not begun: calls that
// fill the pool cannot block each other.
class Workers {
 public:
  // Must not throw: it runs on threads that belong to XLA.
  using Part = void (*)(void* data, int worker, int64_t part);

  static void Run(xla::ffi::ThreadPool& pool, int64_t num_parts, int max_workers, Part part,
                  void* data) {
    auto work = std::make_shared<Workers>(num_parts, max_workers, part, data);
    const int64_t helpers = (num_parts < max_workers ? num_parts : max_workers) - 1;
    for (int64_t i = 0; i < helpers; ++i) {
      try {
        pool.Schedule([work] { work->Join(); });
      } catch (...) {
        break;  // No memory. Helpers that have begun use `data`, so finish with those.
      }
    }
    work->Join();
    std::unique_lock<std::mutex> lock(work->mutex_);
    work->idle_.wait(lock, [&] { return work->active_ == 0; });
  }

  Workers(int64_t num_parts, int max_workers, Part part, void* data)
      : num_parts_(num_parts), max_workers_(max_workers), part_(part), data_(data) {}

 private:
  void Join() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (next_ >= num_parts_ || joined_ >= max_workers_) return;
    const int worker = joined_++;
    ++active_;
    while (next_ < num_parts_) {
      const int64_t mine = next_++;
      lock.unlock();
      part_(data_, worker, mine);
      lock.lock();
    }
    if (--active_ == 0) idle_.notify_all();
  }

  const int64_t num_parts_;
  const int max_workers_;
  const Part part_;
  void* const data_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int64_t next_ = 0;
  int joined_ = 0;
  int active_ = 0;
};

}  // namespace learned_opt
