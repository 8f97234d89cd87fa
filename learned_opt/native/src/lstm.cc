// The two calls that XLA makes on a CPU: a step of many coordinates, and the derivative of a
// window.
//
// learned_opt_lstm_step
//   attribute: problems, int64
//   arguments: x [problems, inputs, n], output weights [units], output bias [], and for each layer
//              w [4 units, inputs + units], b [4 units], h_tm1 and c_tm1 [problems, units, n]
//   results:   y [problems, n], and for each layer h_t and c_t (which may share memory with h_tm1
//              and c_tm1)
//   Only the sizes of x, y and the states matter, not their ranks: several axes of a parameter may
//   stand for n, and a single problem needs no first axis.
//
// learned_opt_lstm_pull_back
//   attribute: tanh, int64, whether dy is the cotangent of tanh(y) instead of y
//   arguments: x [steps, inputs, n], dy [steps, n], then as above with states [units, n]
//   results:   the cotangents of x ([0] where they are not wanted), of the output's weights and
//              bias, and of each layer's w and b; then memory to work in, float32 [workers, *]
//
// All arrays are float32, with the features first and the coordinates last. The coordinates are cut
// into blocks, and the state and gates of a block stay in the cache of one core for all the steps
// of a window.
//
// setup.py defines LEARNED_OPT_INTERFACE, the number in learned_opt/native/_interface.py.

#include <cstring>
#include <exception>
#include <vector>

#include "calls.h"
#include "workers.h"
#include "xla/ffi/api/ffi.h"

namespace learned_opt {
namespace {

struct Layer {
  int inputs, units;
  const float *w, *bias, *h_tm1, *c_tm1;
  float *h_t, *c_t;
  const float* by_unit;  // [units][inputs + units][4]: the weights that one unit's four gates read
  const float*
      transposed;  // [4 units][transposed_stride], w with unused room at the end of each row
  int transposed_stride;
};

struct Output {
  const float* weights;
  float bias;
  int units;
};

struct Step {
  const float* x;
  float* y;
  Output out;
  std::vector<Layer> layers;
  int64_t problems, n, num_parts;
  float* room;
  int64_t room_size;  // floats of one worker
};

// Where the arrays of one block lie in a worker's room.
struct Plan {
  struct OfLayer {
    int64_t z, z_stride, gates, gates_stride, tanh_c, c, dh, dc;
  };
  std::vector<OfLayer> layers;
  int64_t dx, dy, y, size;
};

struct PullBack {
  const float *x, *dy;
  float* dx;  // null where it is not wanted
  bool tanh_of_output;
  Output out;
  std::vector<Layer> layers;
  int64_t steps, n, num_parts;
  Plan plan;
  float* room;
  int64_t room_size;  // floats of one worker
  std::vector<float> sums;
  int64_t sums_size;  // floats of one part
};

Plan MakePlan(const std::vector<Layer>& layers, int64_t steps, int64_t block) {
  Plan plan;
  int64_t end = 0;
  auto take = [&](int64_t rows) {
    const int64_t start = end;
    end += rows * block;
    return start;
  };
  // Steps that lie a multiple of 4 KiB apart would compete for the same lines of a cache.
  auto stride = [&](int64_t rows) {
    return rows * block + (rows * block % 1024 % 512 == 0 ? 256 : 0);
  };
  for (const Layer& layer : layers) {
    Plan::OfLayer of;
    const int64_t rows = layer.inputs + layer.units;
    of.z_stride = stride(rows);
    of.gates_stride = stride(4 * layer.units);
    of.z = end;
    end += (steps + 1) * of.z_stride + 3 * block;  // tiles of four rows read up to three rows more
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

#define PASSES "lstm_block.h"
#include "instruction_sets.h"

// The code for one instruction set.
struct Code {
  int block;
  int64_t (*step_room)(const Step& step);
  void (*step)(void* step, int worker, int64_t part);
  void (*pull_back)(void* pull_back, int worker, int64_t part);
};

#define CODE(set) \
  Code { set::kBlock, set::step_room, set::step_part, set::pull_back_part }

Code ThisMachine() {
#if defined(__x86_64__)
  const int lanes = Lanes();
  if (lanes == avx512::kLanes) return CODE(avx512);
  if (lanes == avx2::kLanes) return CODE(avx2);
#endif
  return CODE(plain);
}

#undef CODE

// Whether a call has `first` arguments and four for each layer, all of them float32.
bool ArgumentsFit(const ffi::RemainingArgs& args, size_t first) {
  if (args.size() < first + 4 || (args.size() - first) % 4 != 0) return false;
  for (size_t i = 0; i < args.size(); ++i) {
    if (Argument(args, i).element_type() != ffi::DataType::F32) return false;
  }
  return true;
}

// The layers of a call. `packed` holds their weights in the order in which the inner loops read
// them.
std::vector<Layer> ReadLayers(const ffi::RemainingArgs& args, size_t first,
                              std::vector<Floats>* packed) {
  std::vector<Layer> layers;
  for (size_t i = first; i < args.size(); i += 4) {
    const ffi::AnyBuffer w = Argument(args, i);
    Layer layer = {};
    layer.units = w.dimensions()[0] / 4;
    layer.inputs = w.dimensions()[1] - layer.units;
    layer.w = Data(w);
    layer.bias = Data(Argument(args, i + 1));
    layer.h_tm1 = Data(Argument(args, i + 2));
    layer.c_tm1 = Data(Argument(args, i + 3));
    const int64_t rows = layer.inputs + layer.units;
    packed->push_back(Allocate(4 * layer.units * rows));
    float* const by_unit = packed->back().get();
    for (int64_t u = 0; u < layer.units; ++u) {
      for (int64_t k = 0; k < rows; ++k) {
        for (int64_t g = 0; g < 4; ++g)
          by_unit[(u * rows + k) * 4 + g] = layer.w[(g * layer.units + u) * rows + k];
      }
    }
    layer.by_unit = by_unit;
    layers.push_back(layer);
  }
  return layers;
}

void TransposeWeights(std::vector<Layer>* layers, std::vector<Floats>* packed) {
  for (Layer& layer : *layers) {
    const int64_t rows = layer.inputs + layer.units, stride = rows + 3;
    packed->push_back(Allocate(4 * layer.units * stride));
    float* const wide = packed->back().get();
    for (int64_t g = 0; g < 4 * layer.units; ++g) {
      std::memcpy(wide + g * stride, layer.w + g * rows, rows * sizeof(float));
      std::memset(wide + g * stride + rows, 0, 3 * sizeof(float));
    }
    layer.transposed = wide;
    layer.transposed_stride = stride;
  }
}

Output ReadOutput(const ffi::RemainingArgs& args, size_t first) {
  const ffi::AnyBuffer w = Argument(args, first);
  return {Data(w), *Data(Argument(args, first + 1)), static_cast<int>(w.dimensions()[0])};
}

// The number of parts of a call; no part where there are no coordinates.
int64_t NumParts(int64_t coordinates, int64_t block) {
  const int64_t blocks = (coordinates + block - 1) / block;
  return blocks < kParts ? blocks : kParts;
}

ffi::Error RunStep(ffi::ThreadPool pool, int64_t problems, ffi::RemainingArgs args,
                   ffi::RemainingRets results) {
  if (!ArgumentsFit(args, 3) || 2 * results.size() != args.size() - 1) {
    return ffi::Error::InvalidArgument(
        "learned_opt: a step with other arguments than the library's");
  }
  const Code code = ThisMachine();
  std::vector<Floats> packed;
  Step step = {};
  step.x = Data(Argument(args, 0));
  step.y = Data(ResultOf(results, 0));
  step.problems = problems;
  step.n = ResultOf(results, 0).element_count() / problems;
  step.num_parts = NumParts(problems * step.n, code.block);
  step.out = ReadOutput(args, 1);
  step.layers = ReadLayers(args, 3, &packed);
  for (size_t l = 0; l < step.layers.size(); ++l) {
    step.layers[l].h_t = Data(ResultOf(results, 1 + 2 * l));
    step.layers[l].c_t = Data(ResultOf(results, 2 + 2 * l));
  }
  const int threads = NumThreads(pool);
  step.room_size = code.step_room(step);
  const Floats room = Allocate(threads * step.room_size);
  step.room = room.get();
  Workers::Run(pool, step.num_parts, threads, code.step, &step);
  return ffi::Error::Success();
}

// Adds the sums of all parts, in order, and writes them to the results between the first and the
// last.
void AddParts(const PullBack& call, const ffi::RemainingRets& results) {
  int64_t at = 0;
  for (size_t i = 1; i + 1 < results.size(); ++i) {
    const ffi::AnyBuffer result = ResultOf(results, i);
    const int64_t size = result.element_count();
    for (int64_t k = 0; k < size; ++k, ++at) {
      float total = 0;
      for (int64_t part = 0; part < call.num_parts; ++part)
        total += call.sums[part * call.sums_size + at];
      Data(result)[k] = total;
    }
  }
}

ffi::Error RunPullBack(ffi::ThreadPool pool, int64_t tanh, ffi::RemainingArgs args,
                       ffi::RemainingRets results) {
  if (!ArgumentsFit(args, 4) || 2 * results.size() != args.size() + 4) {
    return ffi::Error::InvalidArgument(
        "learned_opt: a derivative with other arguments than the library's");
  }
  const Code code = ThisMachine();
  const ffi::AnyBuffer x = Argument(args, 0), dx = ResultOf(results, 0),
                       room = ResultOf(results, results.size() - 1);
  std::vector<Floats> packed;
  PullBack call = {};
  call.x = Data(x);
  call.dy = Data(Argument(args, 1));
  call.dx = dx.dimensions().size() == 3 ? Data(dx) : nullptr;
  call.tanh_of_output = tanh;
  call.steps = x.dimensions()[0];
  call.n = x.dimensions()[2];
  call.num_parts = NumParts(call.n, code.block);
  call.out = ReadOutput(args, 2);
  call.layers = ReadLayers(args, 4, &packed);
  TransposeWeights(&call.layers, &packed);
  call.plan = MakePlan(call.layers, call.steps, code.block);
  call.room = Data(room);
  call.room_size = room.dimensions()[1];
  if (call.plan.size > call.room_size) {
    return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                      "learned_opt: this program was made for a processor with narrower registers");
  }
  call.sums_size = call.out.units + 1;
  for (const Layer& layer : call.layers) {
    call.sums_size += static_cast<int64_t>(4 * layer.units) * (layer.inputs + layer.units + 1);
  }
  call.sums.assign(call.num_parts * call.sums_size, 0.0f);
  const int threads = NumThreads(pool), rooms = room.dimensions()[0];
  Workers::Run(pool, call.num_parts, threads < rooms ? threads : rooms, code.pull_back, &call);
  AddParts(call, results);
  return ffi::Error::Success();
}

ffi::Error CheckedStep(ffi::ThreadPool pool, int64_t problems, ffi::RemainingArgs args,
                       ffi::RemainingRets results) {
  return WithoutExceptions([&] { return RunStep(pool, problems, args, results); });
}

ffi::Error CheckedPullBack(ffi::ThreadPool pool, int64_t tanh, ffi::RemainingArgs args,
                           ffi::RemainingRets results) {
  return WithoutExceptions([&] { return RunPullBack(pool, tanh, args, results); });
}

}  // namespace
}  // namespace learned_opt

XLA_FFI_DEFINE_HANDLER_SYMBOL(learned_opt_lstm_step, learned_opt::CheckedStep,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<int64_t>("problems")
                                  .RemainingArgs()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(learned_opt_lstm_pull_back, learned_opt::CheckedPullBack,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<int64_t>("tanh")
                                  .RemainingArgs()
                                  .RemainingRets());

extern "C" {

int64_t learned_opt_interface() { return LEARNED_OPT_INTERFACE; }

// The most threads that share a call.
int64_t learned_opt_max_workers() { return learned_opt::kParts; }

// Limits the registers of later calls to `max_lanes` floats, and returns how wide they are now. It
// is there for tests and measurements. A derivative that was traced before fails if the registers
// are wider now, because its room is too small.
int64_t learned_opt_limit_lanes(int64_t max_lanes) {
  learned_opt::MaxLanes() = max_lanes;
  return learned_opt::Lanes();
}

// The floats that a worker needs for the derivative of a window, or -1 where there is no memory to
// count them. `sizes` holds (inputs, units) of each layer.
int64_t learned_opt_lstm_room(int64_t steps, int64_t num_layers, const int64_t* sizes) {
  try {
    std::vector<learned_opt::Layer> layers(num_layers);
    for (int64_t l = 0; l < num_layers; ++l) {
      layers[l].inputs = sizes[2 * l];
      layers[l].units = sizes[2 * l + 1];
    }
    return learned_opt::MakePlan(layers, steps, learned_opt::ThisMachine().block).size;
  } catch (const std::exception&) {
    return -1;
  }
}

}  // extern "C"
