// The call that XLA makes on a CPU for `general`: the averages and the direction of tensors of one
// shape, before any matrix is orthogonalised.
//
// learned_opt_general
//   attributes: tensors, rows and columns (zero where the tensors are no matrices), and whether the
//               momentum of the step is divided by the root of the second moment; int64
//   arguments:  kept [4], debias [4], context [c], then for each tensor gradient [n], theta [n],
//               reference [], momentum [3, n] and second moment [n], then for each layer
//               w [units, inputs] and b [units]
//   results:    u [tensors, n], signals [tensors, 4], then for each tensor momentum and second
//               moment (which may share memory with the arguments)
//   Every argument and result may have the same axes before these: a batch, of weights too.
//
// What is computed is said in plain JAX: `general_rule.plain_proposals`. All arrays are float32.
// There are three passes over a tensor, for each needs sums from the one before: the averages; sums
// of the squares of features; features, layers and direction. A tensor is cut into pieces, whose
// sums are added in order, so the result does not depend on the number of threads. Many small
// tensors are shared between threads as wholes, few large ones piece by piece.

#include <cmath>
#include <cstring>
#include <exception>
#include <vector>

#include "calls.h"
#include "workers.h"
#include "xla/ffi/api/ffi.h"

namespace learned_opt {
namespace {

// As in general_rule.py.
constexpr int kMomenta = 3, kNesterov = 1, kSignals = 4;
constexpr float kEpsilon = 1e-10f, kTiny = 1e-30f, kStill = 1e-4f;

constexpr int kScaled = 12;  // features that are divided by their rms; one more is not
enum { kOfG = 0, kOfTheta = 1, kOfM = 2 };
enum { kOfNesterov = kScaled, kFirstAlignment, kSecondAlignment, kSums };
constexpr int kGroup = 4;  // units of a layer that are computed together
constexpr int64_t kPiece = 16384;

struct OfTensor {
  const float *g, *theta, *reference, *m, *v;
  float *new_m, *new_v;
};

struct OfLayer {
  const float *w, *b;
  int64_t units, inputs;
};

// A layer as the passes read it: [units / group][inputs][group], the last units with zeros.
struct Packed {
  int units, inputs;
  float *w, *bias;
};

struct Entry;

struct General {
  int64_t batch, num_tensors, n, rows, columns, adaptive, num_context;
  const float *kept, *debias, *context;
  std::vector<OfTensor> tensors;
  std::vector<OfLayer> layers;
  float *u, *signals;
  int num_layers;
  int64_t piece_size, num_pieces, room_rows;
  void (*passes[3])(const General& call, Entry& entry, float* room, int64_t piece);
  // Of each worker: a room for blocks, and an entry with its memory.
  std::vector<Entry> entries;
  float* rooms;
  int64_t room_size;
  // Where the threads share one entry.
  int pass;
  int64_t num_parts;

  // The first coordinate of a piece. Pieces of matrices are whole rows.
  int64_t Begin(int64_t piece) const {
    const int64_t begin = piece * piece_size;
    return begin < n ? begin : n;
  }

  // Whether a network reads what Adafactor's second moment makes of a matrix.
  bool HasFactors() const { return columns > 0 && num_layers > 0; }
};

// One tensor of one member of the batch.
struct Entry {
  const float *g, *theta, *m, *v, *kept, *debias, *context;
  float reference;
  float *new_m, *new_v, *u, *signals;
  // After the first pass.
  float *largest;                         // [pieces][kMomenta]
  float *totals, *column_sums;            // of each piece
  float *rows, *columns;                  // sums over them, then one over their roots
  float scale_of_g, scale_of_m[kMomenta], scale_of_v, over_mean_v;
  bool is_still;
  // After the second one.
  float* sums;  // [pieces][kSums]
  float scale_of_nesterov;
  std::vector<Packed> layers;
};

#define PASSES "general_block.h"
#include "instruction_sets.h"

// Takes the code for this machine's instruction set; returns the coordinates of a block.
int ChoosePasses(General* call) {
#define TAKE(set)                   \
  call->passes[0] = set::average;   \
  call->passes[1] = set::sum;       \
  call->passes[2] = set::answer;    \
  return set::kBlock
#if defined(__x86_64__)
  const int lanes = Lanes();
  if (lanes == avx512::kLanes) {
    TAKE(avx512);
  }
  if (lanes == avx2::kLanes) {
    TAKE(avx2);
  }
#endif
  TAKE(plain);
#undef TAKE
}

// The units of layer `l` with those that fill its last group.
int64_t PaddedUnits(const General& call, int64_t l) {
  const int64_t units = call.layers[l].units;
  return l + 1 == call.num_layers ? units : (units + kGroup - 1) / kGroup * kGroup;
}

// What the first layer reads beside the context.
int64_t Inputs(const General& call, int64_t l) {
  return call.layers[l].inputs - (l == 0 ? call.num_context : 0);
}

int64_t EntrySize(const General& call) {
  int64_t size = call.num_pieces * (1 + kMomenta + kSums + call.columns) + call.rows + call.columns;
  for (int64_t l = 0; l < call.num_layers; ++l) {
    size += PaddedUnits(call, l) * (Inputs(call, l) + 1);
  }
  return size;
}

Entry NewEntry(const General& call, float* memory) {
  Entry entry = {};
  auto take = [&](int64_t size) {
    float* const start = memory;
    memory += size;
    return start;
  };
  entry.largest = take(call.num_pieces * kMomenta);
  entry.totals = take(call.num_pieces);
  entry.sums = take(call.num_pieces * kSums);
  entry.column_sums = take(call.num_pieces * call.columns);
  entry.rows = take(call.rows);
  entry.columns = take(call.columns);
  for (int64_t l = 0; l < call.num_layers; ++l) {
    const int64_t units = PaddedUnits(call, l), inputs = Inputs(call, l);
    float* const w = take(units * inputs);
    entry.layers.push_back({static_cast<int>(units), static_cast<int>(inputs), w, take(units)});
  }
  return entry;
}

// Points an entry to tensor `index % tensors` of member `index / tensors` of the batch.
void Point(const General& call, int64_t index, Entry* entry) {
  const int64_t b = index / call.num_tensors, n = call.n;
  const OfTensor& of = call.tensors[index % call.num_tensors];
  entry->g = of.g + b * n;
  entry->theta = of.theta + b * n;
  entry->reference = of.reference[b];
  entry->m = of.m + b * kMomenta * n;
  entry->v = of.v + b * n;
  entry->new_m = of.new_m + b * kMomenta * n;
  entry->new_v = of.new_v + b * n;
  entry->kept = call.kept + b * (kMomenta + 1);
  entry->debias = call.debias + b * (kMomenta + 1);
  entry->context = call.context + b * call.num_context;
  entry->u = call.u + index * n;
  entry->signals = call.signals + index * kSignals;
}

// A factor as a float; one that would be infinite multiplies numbers that are zero.
float Factor(double x) { return x < 3e38 ? x : (std::isnan(x) ? x : 3e38f); }

double OneOverRoot(double x) { return 1 / std::sqrt(x + kEpsilon); }

// What the second pass needs of the whole tensor.
void AfterAverages(const General& call, Entry* entry) {
  double of_step = 0, largest = 0, total = 0;
  for (int64_t p = 0; p < call.num_pieces; ++p) {
    for (int k = 0; k < kMomenta; ++k) {
      const double of_momentum = entry->largest[p * kMomenta + k] / entry->debias[k];
      if (of_momentum > largest) largest = of_momentum;
      if (k == kNesterov && of_momentum > of_step) of_step = of_momentum;
    }
    total += entry->totals[p];
  }
  const double unit = largest > 0 ? largest : 1;
  entry->is_still = of_step < kStill * unit;
  entry->scale_of_g = Factor(1 / unit);
  for (int k = 0; k < kMomenta; ++k) entry->scale_of_m[k] = Factor(1 / (unit * entry->debias[k]));
  const double of_v = 1 / (unit * std::sqrt(static_cast<double>(entry->debias[kMomenta])));
  entry->scale_of_v = Factor(of_v);
  const double mean = total * of_v * of_v / call.n;
  entry->over_mean_v = Factor(1 / (mean + kEpsilon));
  if (!call.HasFactors()) return;
  const double root = std::sqrt(mean);
  for (int64_t i = 0; i < call.rows; ++i) {
    entry->rows[i] = root * OneOverRoot(entry->rows[i] * of_v * of_v / call.columns);
  }
  for (int64_t p = 1; p < call.num_pieces; ++p) {
    const float* const more = entry->column_sums + p * call.columns;
    for (int64_t j = 0; j < call.columns; ++j) entry->column_sums[j] += more[j];
  }
  for (int64_t j = 0; j < call.columns; ++j) {
    entry->columns[j] = OneOverRoot(entry->column_sums[j] * of_v * of_v / call.rows);
  }
}

double OneOver(double size) { return size == 0 ? 1 : 1 / (size + kTiny); }

float LogOf(double size) { return size < kTiny ? std::log(kTiny) : std::log(size); }

float Clipped(float x) { return x > 4 ? 4 : (x < -4 ? -4 : x); }

// What the third pass needs of the whole tensor, and the tensor's signals.
void AfterSums(const General& call, int64_t member, Entry* entry) {
  double means[kSums] = {}, sizes[kScaled], inverse[kScaled + 1];
  for (int64_t p = 0; p < call.num_pieces; ++p) {
    for (int k = 0; k < kSums; ++k) means[k] += entry->sums[p * kSums + k];
  }
  for (int k = 0; k < kSums; ++k) means[k] /= call.n;
  for (int k = 0; k < kScaled; ++k) {
    sizes[k] = std::sqrt(means[k]);
    inverse[k] = OneOver(sizes[k]);
  }
  inverse[kScaled] = 0.25;
  // A tensor whose momentum is not a number does not hide it.
  if (std::isnan(means[kOfM + kNesterov])) entry->is_still = false;
  entry->scale_of_nesterov = OneOver(std::sqrt(means[kOfNesterov]));
  const int last = kOfM + kMomenta - 1;
  float* const signals = entry->signals;
  signals[0] = means[kFirstAlignment] * inverse[kOfG] * inverse[kOfM + kNesterov];
  signals[1] = means[kSecondAlignment] * inverse[kOfM] * inverse[last];
  signals[2] = Clipped(LogOf(sizes[last]) - LogOf(sizes[kOfM])) / 2;
  signals[3] = Clipped(LogOf(sizes[kOfTheta]) - LogOf(entry->reference));
  for (int64_t l = 0; l < call.num_layers; ++l) {
    const OfLayer& layer = call.layers[l];
    const Packed& packed = entry->layers[l];
    const float* const w = layer.w + member * layer.units * layer.inputs;
    const float* const b = layer.b + member * layer.units;
    const int group = l + 1 == call.num_layers ? 1 : kGroup;
    for (int64_t u = 0; u < packed.units; ++u) {
      const bool is_there = u < layer.units;
      const float* const of_unit = w + u * layer.inputs;
      float* const to = packed.w + u / group * group * packed.inputs + u % group;
      for (int64_t k = 0; k < packed.inputs; ++k) {
        to[k * group] = is_there ? of_unit[k] * (l == 0 ? inverse[k] : 1.0) : 0;
      }
      double bias = is_there ? b[u] : 0;
      for (int64_t k = packed.inputs; is_there && k < layer.inputs; ++k) {
        bias += of_unit[k] * entry->context[k - packed.inputs];
      }
      packed.bias[u] = bias;
    }
  }
}

void AfterPass(const General& call, int pass, int64_t index, Entry* entry) {
  if (pass == 0) AfterAverages(call, entry);
  if (pass == 1) AfterSums(call, index / call.num_tensors, entry);
}

// A part of the entries, each from beginning to end.
void EntriesPart(void* data, int worker, int64_t part) {
  General& call = *static_cast<General*>(data);
  const int64_t entries = call.batch * call.num_tensors;
  float* const room = call.rooms + worker * call.room_size;
  Entry& entry = call.entries[worker];
  const int64_t last = (part + 1) * entries / call.num_parts;
  for (int64_t index = part * entries / call.num_parts; index < last; ++index) {
    Point(call, index, &entry);
    for (int pass = 0; pass < 3; ++pass) {
      for (int64_t p = 0; p < call.num_pieces; ++p) call.passes[pass](call, entry, room, p);
      AfterPass(call, pass, index, &entry);
    }
  }
}

// A part of the pieces of one entry, in one pass.
void PiecesPart(void* data, int worker, int64_t part) {
  General& call = *static_cast<General*>(data);
  float* const room = call.rooms + worker * call.room_size;
  const int64_t last = (part + 1) * call.num_pieces / call.num_parts;
  for (int64_t p = part * call.num_pieces / call.num_parts; p < last; ++p) {
    call.passes[call.pass](call, call.entries[0], room, p);
  }
}

bool HasSize(const ffi::AnyBuffer& buffer, int64_t size) {
  return buffer.element_type() == ffi::DataType::F32 &&
         static_cast<int64_t>(buffer.element_count()) == size;
}

// Reads the arguments of a call; returns whether they fit each other.
bool Read(const ffi::RemainingArgs& args, const ffi::RemainingRets& results, General* call) {
  const int64_t tensors = call->num_tensors;
  const size_t first = 3, first_layer = first + 5 * tensors;
  if (tensors < 1 || args.size() < first_layer) return false;
  if ((args.size() - first_layer) % 2 != 0) return false;
  if (results.size() != static_cast<size_t>(2 + 2 * tensors)) return false;
  const int64_t batch = Argument(args, first + 2).element_count();
  if (batch < 1) return false;
  const int64_t n = Argument(args, first).element_count() / batch;
  const int64_t num_context = Argument(args, 2).element_count() / batch;
  bool fits = n > 0 && (call->columns == 0 || call->rows * call->columns == n);
  auto argument = [&](size_t i, int64_t size) {
    const ffi::AnyBuffer buffer = Argument(args, i);
    fits = fits && HasSize(buffer, batch * size);
    return Data(buffer);
  };
  auto result = [&](size_t i, int64_t size) {
    const ffi::AnyBuffer buffer = ResultOf(results, i);
    fits = fits && HasSize(buffer, batch * size);
    return Data(buffer);
  };
  call->batch = batch;
  call->n = n;
  call->num_context = num_context;
  call->kept = argument(0, kMomenta + 1);
  call->debias = argument(1, kMomenta + 1);
  call->context = argument(2, num_context);
  call->u = result(0, tensors * n);
  call->signals = result(1, tensors * kSignals);
  for (int64_t t = 0; t < tensors; ++t) {
    const size_t at = first + 5 * t;
    OfTensor of;
    of.g = argument(at, n);
    of.theta = argument(at + 1, n);
    of.reference = argument(at + 2, 1);
    of.m = argument(at + 3, kMomenta * n);
    of.v = argument(at + 4, n);
    of.new_m = result(2 + 2 * t, kMomenta * n);
    of.new_v = result(3 + 2 * t, n);
    call->tensors.push_back(of);
  }
  int64_t inputs = kScaled + 1 + num_context;
  for (size_t i = first_layer; i < args.size(); i += 2) {
    const int64_t units = Argument(args, i + 1).element_count() / batch;
    call->layers.push_back({argument(i, units * inputs), argument(i + 1, units), units, inputs});
    inputs = units;
  }
  call->num_layers = call->layers.size();
  return fits && (call->num_layers == 0 || call->layers.back().units == 1);
}

ffi::Error RunGeneral(ffi::ThreadPool pool, int64_t tensors, int64_t rows, int64_t columns,
                      int64_t adaptive, ffi::RemainingArgs args, ffi::RemainingRets results) {
  General call = {};
  call.num_tensors = tensors;
  call.rows = rows;
  call.columns = columns;
  call.adaptive = adaptive;
  if (!Read(args, results, &call)) {
    return ffi::Error::InvalidArgument(
        "learned_opt: a step of general with other arguments than the library's");
  }
  call.piece_size = kPiece;
  if (columns > 0) {
    // Each piece has sums of all columns: at least eight rows keep them small beside the tensor.
    const int64_t at_once = kPiece / columns;
    call.piece_size = (at_once < 8 ? 8 : at_once) * columns;
  }
  call.num_pieces = (call.n + call.piece_size - 1) / call.piece_size;
  const int block = ChoosePasses(&call);
  call.room_rows = kScaled + 1;
  for (int64_t l = 0; l < call.num_layers; ++l) {
    const int64_t units = PaddedUnits(call, l);
    if (units > call.room_rows) call.room_rows = units;
  }
  const int threads = NumThreads(pool);
  const int64_t entries = call.batch * tensors, entry_size = EntrySize(call);
  const bool by_entries = call.num_pieces == 1 || entries >= 2 * threads;
  const int num_entries = by_entries ? threads : 1;
  call.room_size = 2 * call.room_rows * block;
  const Floats rooms = Allocate(threads * call.room_size);
  std::memset(rooms.get(), 0, threads * call.room_size * sizeof(float));
  const Floats memory = Allocate(num_entries * entry_size);
  call.rooms = rooms.get();
  for (int i = 0; i < num_entries; ++i) {
    call.entries.push_back(NewEntry(call, memory.get() + i * entry_size));
  }
  if (by_entries) {
    call.num_parts = entries < kParts ? entries : kParts;
    Workers::Run(pool, call.num_parts, threads, EntriesPart, &call);
    return ffi::Error::Success();
  }
  call.num_parts = call.num_pieces < kParts ? call.num_pieces : kParts;
  for (int64_t index = 0; index < entries; ++index) {
    Point(call, index, &call.entries[0]);
    for (call.pass = 0; call.pass < 3; ++call.pass) {
      Workers::Run(pool, call.num_parts, threads, PiecesPart, &call);
      AfterPass(call, call.pass, index, &call.entries[0]);
    }
  }
  return ffi::Error::Success();
}

ffi::Error CheckedGeneral(ffi::ThreadPool pool, int64_t tensors, int64_t rows, int64_t columns,
                          int64_t adaptive, ffi::RemainingArgs args, ffi::RemainingRets results) {
  return WithoutExceptions(
      [&] { return RunGeneral(pool, tensors, rows, columns, adaptive, args, results); });
}

}  // namespace
}  // namespace learned_opt

XLA_FFI_DEFINE_HANDLER_SYMBOL(learned_opt_general, learned_opt::CheckedGeneral,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<int64_t>("tensors")
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns")
                                  .Attr<int64_t>("adaptive")
                                  .RemainingArgs()
                                  .RemainingRets());
