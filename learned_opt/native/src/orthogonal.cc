// The call that XLA makes on a CPU for small matrices that are to be orthogonalised.
//
// learned_opt_orthogonal
//   attributes: rows, columns, how many steps are made with the whole matrix, steps, int64, and the
//               polynomial's coefficients a, b, c, float
//   argument:   x [.., rows, columns]
//   result:     the same
//
// What is computed is said in plain JAX: `orthogonal.plain_orthogonalised`. All arrays are float32.
// Each matrix is the work of one thread and stays in its cache. XLA computes products of a batch of
// small matrices one by one, with a call for each.

#include <cstring>
#include <exception>

#include "calls.h"
#include "workers.h"
#include "xla/ffi/api/ffi.h"

namespace learned_opt {
namespace {

struct Orthogonal {
  const float* x;
  float* result;
  int64_t rows, columns, steps, whole_steps, matrices, tall, wide;
  float a, b, c;
  float* rooms;
  int64_t room_size, num_parts;
  void (*run)(const Orthogonal& call, float* room, int64_t index);
};

#define PASSES "orthogonal_block.h"
#include "instruction_sets.h"

int64_t Padded(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// Takes the code for this machine's instruction set, and sizes that fill its registers. Half a
// register of zeros in each row costs more than wide registers gain.
void Choose(Orthogonal* call, int64_t longer, int64_t shorter) {
  int lanes = Lanes();
  if (lanes == 16 && Padded(shorter, 8) < Padded(shorter, 16)) lanes = 8;
  call->tall = Padded(longer, 8);
  call->wide = Padded(shorter, lanes < 8 ? 8 : lanes);
  call->run = plain::orthogonalise;
#if defined(__x86_64__)
  if (lanes == avx2::kLanes) call->run = avx2::orthogonalise;
  if (lanes == avx512::kLanes) call->run = avx512::orthogonalise;
#endif
}

void MatricesPart(void* data, int worker, int64_t part) {
  const Orthogonal& call = *static_cast<Orthogonal*>(data);
  const int64_t last = (part + 1) * call.matrices / call.num_parts;
  for (int64_t index = part * call.matrices / call.num_parts; index < last; ++index) {
    call.run(call, call.rooms + worker * call.room_size, index);
  }
}

ffi::Error RunOrthogonal(ffi::ThreadPool pool, int64_t rows, int64_t columns, int64_t whole_steps,
                         int64_t steps, float a, float b, float c, ffi::AnyBuffer x,
                         ffi::Result<ffi::AnyBuffer> result) {
  const int64_t size = x.element_count();
  if (x.element_type() != ffi::DataType::F32 || result->element_type() != ffi::DataType::F32 ||
      rows < 1 || columns < 1 || size % (rows * columns) != 0 ||
      static_cast<int64_t>(result->element_count()) != size) {
    return ffi::Error::InvalidArgument(
        "learned_opt: matrices with other arguments than the library's");
  }
  Orthogonal call = {};
  call.x = Data(x);
  call.result = Data(*result);
  call.rows = rows;
  call.columns = columns;
  call.steps = steps;
  call.a = a;
  call.b = b;
  call.c = c;
  call.matrices = size / (rows * columns);
  Choose(&call, rows > columns ? rows : columns, rows > columns ? columns : rows);
  call.whole_steps = whole_steps;
  call.room_size = 2 * call.wide * (call.tall + 2 * call.wide);
  call.num_parts = call.matrices < kParts ? call.matrices : kParts;
  const int threads = NumThreads(pool);
  const Floats rooms = Allocate(threads * call.room_size);
  call.rooms = rooms.get();
  Workers::Run(pool, call.num_parts, threads, MatricesPart, &call);
  return ffi::Error::Success();
}

ffi::Error CheckedOrthogonal(ffi::ThreadPool pool, int64_t rows, int64_t columns,
                             int64_t whole_steps, int64_t steps, float a, float b, float c,
                             ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> result) {
  return WithoutExceptions(
      [&] { return RunOrthogonal(pool, rows, columns, whole_steps, steps, a, b, c, x, result); });
}

}  // namespace
}  // namespace learned_opt

XLA_FFI_DEFINE_HANDLER_SYMBOL(learned_opt_orthogonal, learned_opt::CheckedOrthogonal,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns")
                                  .Attr<int64_t>("whole_steps")
                                  .Attr<int64_t>("steps")
                                  .Attr<float>("a")
                                  .Attr<float>("b")
                                  .Attr<float>("c")
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>());
