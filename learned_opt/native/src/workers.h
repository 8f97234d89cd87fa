// Shares the parts of a call between the threads of XLA's own pool.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla_ffi_c_api.h"

namespace learned_opt {

// Runs `part(worker, p)` for p = 0 .. num_parts - 1 on the calling thread and on up to `max_workers - 1` threads of the
// pool; `worker` is below `max_workers`, and no two threads share one. The caller works too and never waits for a
// helper that has not begun: calls that fill the pool cannot lock each other out.
class Workers {
 public:
  using Part = void (*)(void* data, int worker, int64_t part);

  static void Run(const XLA_FFI_CallFrame* frame, int64_t num_parts, int max_workers, Part part, void* data) {
    auto work = std::make_shared<Workers>(num_parts, max_workers, part, data);
    const int64_t helpers = (num_parts < max_workers ? num_parts : max_workers) - 1;
    for (int64_t i = 0; i < helpers; ++i) {
      auto* held = new std::shared_ptr<Workers>(work);
      XLA_FFI_ThreadPool_Schedule_Args args = {};
      args.struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE;
      args.ctx = frame->ctx;
      args.task = &Workers::Help;
      args.data = held;
      if (XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args)) {
        XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
        frame->api->XLA_FFI_Error_Destroy(&destroy);
        delete held;  // no pool: the caller does it all
        break;
      }
    }
    work->Join();
    std::unique_lock<std::mutex> lock(work->mutex_);
    work->idle_.wait(lock, [&] { return work->active_ == 0; });
  }

  Workers(int64_t num_parts, int max_workers, Part part, void* data)
      : num_parts_(num_parts), max_workers_(max_workers), part_(part), data_(data) {}

 private:
  static void Help(void* held) {
    std::unique_ptr<std::shared_ptr<Workers>> work(static_cast<std::shared_ptr<Workers>*>(held));
    (*work)->Join();
  }

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
