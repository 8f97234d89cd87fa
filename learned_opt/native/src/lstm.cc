// The two calls that XLA makes on a CPU: a step of many coordinates, and the derivative of a window.
//
// learned_opt_lstm_step
//   attribute: problems, int64
//   arguments: x [problems, inputs, n], output weights [units], output bias [], and for each layer
//              w [4 units, inputs + units], b [4 units], h_tm1 and c_tm1 [problems, units, n]
//   results:   y [problems, n], and for each layer h_t, c_t (which may stand where h_tm1, c_tm1 stood)
//   Any shape of the right size will do: a parameter's axes stand for n, and a single problem needs no axis.
//
// learned_opt_lstm_pull_back
//   attribute: tanh, int64, whether dy belongs to tanh(y) and not to y
//   arguments: x [steps, inputs, n], dy [steps, n], then as above with states [units, n]
//   results:   the cotangents of x ([0] where nobody asks), of the output's weights and bias, of each layer's w and b;
//              room to work in, float32 [workers, *]
//
// Everything is float32, features first, coordinates last. Coordinates are cut into blocks; a block's state and gates
// stay in the cache of one core for all the steps of a window.

#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "workers.h"
#include "xla_ffi_c_api.h"

namespace learned_opt {
namespace {

struct Layer {
  int inputs, units;
  const float *w, *bias, *h_tm1, *c_tm1;
  float *h_t, *c_t;
  const float* by_unit;     // [units][inputs + units][4]: the weights that one unit's four gates read
  const float* transposed;  // [4 units][transposed_stride], w with room at the end of each row
  int transposed_stride;
};

struct Output {
  const float* weights;
  float bias;
  int units;
};

// Sums of cotangents are kept apart in this many parts and added in order: the result does not depend on how many
// threads there are, or which was first.
constexpr int64_t kParts = 32;

struct Step {
  const float* x;
  float* y;
  Output out;
  std::vector<Layer> layers;
  int64_t problems, n, num_parts;
};

struct PullBack {
  const float *x, *dy;
  float* dx;  // null where nobody asks
  bool tanh_of_output;
  Output out;
  std::vector<Layer> layers;
  int64_t steps, n, num_parts;
  float* scratch;
  int64_t scratch_size;  // of one worker
  std::vector<float> sums;
  int64_t sums_size;  // of one part
};

// Where the arrays of one block lie in a worker's room.
struct Plan {
  struct OfLayer {
    int64_t z, z_stride, gates, gates_stride, tanh_c, c, dh, dc;
  };
  std::vector<OfLayer> layers;
  int64_t dx, dy, y, size;
};

Plan MakePlan(const std::vector<Layer>& layers, int64_t steps, int64_t block) {
  Plan plan;
  int64_t end = 0;
  auto take = [&](int64_t rows) {
    const int64_t start = end;
    end += rows * block;
    return start;
  };
  // Steps a multiple of 4 KiB apart would fall on the same lines of a cache.
  auto stride = [&](int64_t rows) { return rows * block + (rows * block % 1024 % 512 == 0 ? 256 : 0); };
  for (const Layer& layer : layers) {
    Plan::OfLayer of;
    const int64_t rows = layer.inputs + layer.units;
    of.z_stride = stride(rows);
    of.gates_stride = stride(4 * layer.units);
    of.z = end;
    end += (steps + 1) * of.z_stride + 3 * block;  // three rows of room for tiles of four
    of.gates = end;
    end += steps * of.gates_stride;
    of.tanh_c = take(steps * layer.units);
    of.c = take((steps + 1) * layer.units);
    of.dh = take(layer.units);
    of.dc = take(layer.units);
    plan.layers.push_back(of);
  }
  plan.dx = take(layers[0].inputs);
  plan.dy = take(steps);
  plan.y = take(1);
  plan.size = end;
  return plan;
}

// Functions between the two are compiled for the instructions named.
#define PRAGMA(...) _Pragma(#__VA_ARGS__)
#if defined(__clang__)
#define BEGIN_TARGET(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#endif

#if defined(__x86_64__)
BEGIN_TARGET("avx512f,avx512dq,avx512vl,fma")
#define LANES 16
#define TILE 4
#define BLOCK 64
namespace avx512 {
#include "lstm_block.h"
}  // namespace avx512
#undef LANES
#undef TILE
#undef BLOCK
END_TARGET

BEGIN_TARGET("avx2,fma")
#define LANES 8
#define TILE 2
#define BLOCK 32
namespace avx2 {
#include "lstm_block.h"
}  // namespace avx2
#undef LANES
#undef TILE
#undef BLOCK
END_TARGET
#endif

#define LANES 4
#define TILE 2
#define BLOCK 32
namespace plain {
#include "lstm_block.h"
}  // namespace plain

// The code for this machine.
struct Code {
  int lanes, block;
  void (*step)(void* step, int worker, int64_t part);
  void (*pull_back)(void* pull_back, int worker, int64_t part);
};

Code Choose(int max_lanes) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (max_lanes >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return {16, 64, avx512::step_part, avx512::pull_back_part};
  }
  if (max_lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {8, 32, avx2::step_part, avx2::pull_back_part};
  }
#endif
  return {4, 32, plain::step_part, plain::pull_back_part};
}

Code& ThisMachine() {
  static Code code = Choose(16);
  return code;
}

const XLA_FFI_Buffer& Argument(const XLA_FFI_CallFrame* frame, int i) {
  return *static_cast<XLA_FFI_Buffer*>(frame->args.args[i]);
}

const XLA_FFI_Buffer& Result(const XLA_FFI_CallFrame* frame, int i) {
  return *static_cast<XLA_FFI_Buffer*>(frame->rets.rets[i]);
}

int64_t Size(const XLA_FFI_Buffer& buffer) {
  int64_t size = 1;
  for (int64_t d = 0; d < buffer.rank; ++d) size *= buffer.dims[d];
  return size;
}

float* Floats(const XLA_FFI_Buffer& buffer) { return static_cast<float*>(buffer.data); }

// The one attribute of a call.
int64_t Attribute(const XLA_FFI_CallFrame* frame) {
  return *static_cast<int64_t*>(static_cast<XLA_FFI_Scalar*>(frame->attrs.attrs[0])->value);
}

// The network of a call: weights in the order in which the inner loops read them, in `packed`.
std::vector<Layer> ReadLayers(const XLA_FFI_CallFrame* frame, int first, std::vector<std::vector<float>>* packed) {
  std::vector<Layer> layers;
  for (int i = first; i + 3 < frame->args.size; i += 4) {
    const XLA_FFI_Buffer& w = Argument(frame, i);
    Layer layer = {};
    layer.units = w.dims[0] / 4;
    layer.inputs = w.dims[1] - layer.units;
    layer.w = Floats(w);
    layer.bias = Floats(Argument(frame, i + 1));
    layer.h_tm1 = Floats(Argument(frame, i + 2));
    layer.c_tm1 = Floats(Argument(frame, i + 3));
    const int64_t rows = layer.inputs + layer.units;
    std::vector<float> by_unit(4 * layer.units * rows);
    for (int64_t u = 0; u < layer.units; ++u) {
      for (int64_t k = 0; k < rows; ++k) {
        for (int64_t g = 0; g < 4; ++g) by_unit[(u * rows + k) * 4 + g] = layer.w[(g * layer.units + u) * rows + k];
      }
    }
    packed->push_back(std::move(by_unit));
    layer.by_unit = packed->back().data();
    layers.push_back(layer);
  }
  return layers;
}

void TransposeWeights(std::vector<Layer>* layers, std::vector<std::vector<float>>* packed) {
  for (Layer& layer : *layers) {
    const int64_t rows = layer.inputs + layer.units;
    layer.transposed_stride = rows + 3;
    std::vector<float> wide(4 * layer.units * (rows + 3));
    for (int64_t g = 0; g < 4 * layer.units; ++g) {
      std::memcpy(&wide[g * (rows + 3)], layer.w + g * rows, rows * sizeof(float));
    }
    packed->push_back(std::move(wide));
    layer.transposed = packed->back().data();
  }
}

Output ReadOutput(const XLA_FFI_CallFrame* frame, int first) {
  const XLA_FFI_Buffer& w = Argument(frame, first);
  return {Floats(w), *Floats(Argument(frame, first + 1)), static_cast<int>(w.dims[0])};
}

// How many parts a call has: no coordinates, no part.
int64_t Parts(int64_t coordinates) {
  const int64_t blocks = (coordinates + ThisMachine().block - 1) / ThisMachine().block;
  return blocks < kParts ? blocks : kParts;
}

int Threads(const XLA_FFI_CallFrame* frame) {
  int64_t threads = 0;
  XLA_FFI_ThreadPool_NumThreads_Args args = {};
  args.struct_size = XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE;
  args.ctx = frame->ctx;
  args.num_threads = &threads;
  if (XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args)) {
    XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    frame->api->XLA_FFI_Error_Destroy(&destroy);
    return 1;
  }
  return threads < kParts ? (threads < 1 ? 1 : threads) : kParts;
}

// Whether XLA only asks what this handler was built for, which is then answered.
bool AnswersMetadata(XLA_FFI_CallFrame* frame) {
  XLA_FFI_Extension_Base* extension = frame->extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

XLA_FFI_Error* FailedPrecondition(const XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args = {};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message;
  args.errc = XLA_FFI_Error_Code_FAILED_PRECONDITION;
  return frame->api->XLA_FFI_Error_Create(&args);
}

void RunStep(const XLA_FFI_CallFrame* frame) {
  std::vector<std::vector<float>> packed;
  Step step = {};
  step.x = Floats(Argument(frame, 0));
  step.y = Floats(Result(frame, 0));
  step.problems = Attribute(frame);
  step.n = Size(Result(frame, 0)) / step.problems;
  step.num_parts = Parts(step.problems * step.n);
  step.out = ReadOutput(frame, 1);
  step.layers = ReadLayers(frame, 3, &packed);
  for (size_t l = 0; l < step.layers.size(); ++l) {
    step.layers[l].h_t = Floats(Result(frame, 1 + 2 * l));
    step.layers[l].c_t = Floats(Result(frame, 2 + 2 * l));
  }
  Workers::Run(frame, step.num_parts, Threads(frame), ThisMachine().step, &step);
}

XLA_FFI_Error* RunPullBack(const XLA_FFI_CallFrame* frame) {
  const XLA_FFI_Buffer& x = Argument(frame, 0);
  const XLA_FFI_Buffer& room = Result(frame, frame->rets.size - 1);
  std::vector<std::vector<float>> packed;
  PullBack call = {};
  call.x = Floats(x);
  call.dy = Floats(Argument(frame, 1));
  call.dx = Result(frame, 0).rank == 3 ? Floats(Result(frame, 0)) : nullptr;
  call.tanh_of_output = Attribute(frame);
  call.steps = x.dims[0];
  call.n = x.dims[2];
  call.num_parts = Parts(call.n);
  call.out = ReadOutput(frame, 2);
  call.layers = ReadLayers(frame, 4, &packed);
  TransposeWeights(&call.layers, &packed);
  call.scratch = Floats(room);
  call.scratch_size = room.dims[1];
  if (MakePlan(call.layers, call.steps, ThisMachine().block).size > call.scratch_size) {
    return FailedPrecondition(frame, "learned_opt: this program was made for a processor with narrower registers");
  }
  call.sums_size = call.out.units + 1;
  for (const Layer& layer : call.layers) call.sums_size += 4 * layer.units * (layer.inputs + layer.units + 1);
  call.sums.assign(call.num_parts * call.sums_size, 0.0f);
  const int threads = Threads(frame), rooms = room.dims[0];
  Workers::Run(frame, call.num_parts, threads < rooms ? threads : rooms, ThisMachine().pull_back, &call);
  int64_t at = 0;
  for (int i = 1; i + 1 < frame->rets.size; ++i) {
    const XLA_FFI_Buffer& result = Result(frame, i);
    const int64_t size = Size(result);
    for (int64_t k = 0; k < size; ++k, ++at) {
      float total = 0;
      for (int64_t part = 0; part < call.num_parts; ++part) total += call.sums[part * call.sums_size + at];
      Floats(result)[k] = total;
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace learned_opt

extern "C" {

// The number of this interface: a change to what the calls take or give raises it, here and in __init__.py.
int learned_opt_interface() { return 2; }

XLA_FFI_Error* learned_opt_lstm_step(XLA_FFI_CallFrame* frame) {
  if (!learned_opt::AnswersMetadata(frame)) learned_opt::RunStep(frame);
  return nullptr;
}

XLA_FFI_Error* learned_opt_lstm_pull_back(XLA_FFI_CallFrame* frame) {
  return learned_opt::AnswersMetadata(frame) ? nullptr : learned_opt::RunPullBack(frame);
}

// Has later calls use registers of at most `max_lanes` floats, where this machine has wider ones; returns how wide they
// are. For tests and measurements: derivatives that were traced for narrower ones then fail, for want of room.
int learned_opt_limit_lanes(int max_lanes) {
  learned_opt::ThisMachine() = learned_opt::Choose(max_lanes);
  return learned_opt::ThisMachine().lanes;
}

// Floats that a worker needs for the derivative of a window; layers as pairs (inputs, units).
int64_t learned_opt_lstm_room(int64_t steps, int64_t num_layers, const int64_t* sizes) {
  std::vector<learned_opt::Layer> layers(num_layers);
  for (int64_t l = 0; l < num_layers; ++l) {
    layers[l].inputs = sizes[2 * l];
    layers[l].units = sizes[2 * l + 1];
  }
  return learned_opt::MakePlan(layers, steps, learned_opt::ThisMachine().block).size;
}

}  // extern "C"
