// What the calls that XLA makes have in common: their arguments, their threads, and the choice of
// an instruction set.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace learned_opt {

namespace ffi = xla::ffi;

// A call is cut into at most this many parts. Each part has sums of its own, which are added in
// order, so the result does not depend on the number of threads or on which of them was first.
constexpr int64_t kParts = 32;

// Functions between BEGIN_TARGET and END_TARGET are compiled for the instructions named.
#define PRAGMA(...) _Pragma(#__VA_ARGS__)
#if defined(__clang__)
#define BEGIN_TARGET(features) \
  PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#endif

// At most how many floats of a register are used; less than there are for tests and measurements.
inline int& MaxLanes() {
  static int lanes = 16;
  return lanes;
}

// The floats of the widest registers of this machine, or of the widest that `MaxLanes` leaves.
inline int Lanes() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (MaxLanes() >= 16 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return 16;
  }
  if (MaxLanes() >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
  return 4;
}

using Floats = std::unique_ptr<float, decltype(&std::free)>;

// Memory for `size` floats, which begins at a line of the cache.
inline Floats Allocate(int64_t size) {
  const size_t bytes = (size * sizeof(float) + 63) / 64 * 64;
  void* const memory = std::aligned_alloc(64, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return Floats(static_cast<float*>(memory), &std::free);
}

inline ffi::AnyBuffer Argument(const ffi::RemainingArgs& args, size_t i) {
  return args.get<ffi::AnyBuffer>(i).value();
}

inline ffi::AnyBuffer ResultOf(const ffi::RemainingRets& results, size_t i) {
  return *results.get<ffi::AnyBuffer>(i).value();
}

inline float* Data(const ffi::AnyBuffer& buffer) {
  return static_cast<float*>(buffer.untyped_data());
}

inline int NumThreads(const ffi::ThreadPool& pool) {
  const int64_t threads = pool.num_threads();  // 0 where there is no pool
  if (threads < 1) return 1;
  return threads < kParts ? threads : kParts;
}

// Exceptions must not leave a C function: XLA gets an error instead, which JAX raises.
template <typename Run>
ffi::Error WithoutExceptions(Run run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "learned_opt: the C++ loops found no memory");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

}  // namespace learned_opt
