// The three passes of `general` over a piece of a tensor: the work of one core.
//
// This file has no include guard: general.cc includes it once for each instruction set, with what
// vectors.h needs. What lstm_block.h says of templates, memory and exceptions holds here too.
//
// The last coordinates of a piece may fill no register. They are read with zeros behind them, which
// add nothing to any sum.

#include "vectors.h"

// All features, in registers.
#define ALL(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); ++i)

INLINE Vector root_of(Vector x) {
#if LANES == 16
  return _mm512_sqrt_ps(x);
#elif LANES == 8
  return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
  return _mm_sqrt_ps(x);
#else
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// The larger of `x` and zero; NaN stays NaN, see `clamp`.
INLINE Vector relu(Vector x) {
#if LANES == 16
  return _mm512_max_ps(Vector{}, x);
#elif LANES == 8
  return _mm256_max_ps(Vector{}, x);
#elif defined(__x86_64__)
  return _mm_max_ps(Vector{}, x);
#else
  return x < 0.0f ? Vector{} : x;
#endif
}

INLINE Vector larger(Vector x, Vector y) { return y > x ? y : x; }

// The logarithm of a positive number, to a few units in the last place. What is not finite stays.
// The number is 2^e (1 + f) with 1 + f between the roots of 1/2 and 2, and log(1 + f) is its
// Taylor polynomial of 2 atanh(f / (2 + f)).
INLINE Vector log_of(Vector x) {
  const Vector normal = larger(x, all(1.17549435e-38f));
  const Bits bits = reinterpret_cast<Bits>(normal);
  // From the root of 1/2 on, the next power of two is nearer.
  const Bits e = (bits - 0x3f3504f3) >> 23;
  const Vector f = reinterpret_cast<Vector>(bits - (e << 23)) - 1.0f;
  const Vector s = f / (f + 2.0f);
  const Vector z = s * s;
  Vector p = z * 0.22222222222222f + 0.28571428571429f;
  p = z * p + 0.4f;
  p = z * p + 0.66666666666667f;
  // 2 atanh(s) = 2 s + s z p, and 2 s = f - s f.
  const Vector mantissa = f - s * (f - z * p);
  const Vector exponent = __builtin_convertvector(e, Vector);
  const Vector y = exponent * 0.693359375f + (exponent * -2.12194440e-4f + mantissa);
  return x < __builtin_inff() ? y : x;
}

INLINE Vector load_some(const float* p, int64_t count) {
  if (count >= LANES) return load(p);
  float padded[LANES] = {};
  std::memcpy(padded, p, count * sizeof(float));
  return load(padded);
}

INLINE void store_some(float* p, Vector x, int64_t count) {
  if (count >= LANES) return store(p, x);
  float padded[LANES];
  store(padded, x);
  std::memcpy(p, padded, count * sizeof(float));
}

// First pass: the next averages of a piece, its largest momenta, and sums of its second moment.
void average(const General& call, Entry& entry, float*, int64_t piece) {
  const int64_t n = call.n, first = call.Begin(piece), last = call.Begin(piece + 1);
  const Vector kept_v = all(entry.kept[kMomenta]);
  Vector largest[kMomenta] = {}, total{};
  for (int64_t i = first; i < last; i += LANES) {
    const int64_t count = last - i;
    const Vector g = load_some(entry.g + i, count);
    EACH(k, kMomenta) {
      const Vector old = load_some(entry.m + k * n + i, count);
      const Vector m = old + entry.kept[k] * (g - old);
      store_some(entry.new_m + k * n + i, m, count);
      largest[k] = larger(largest[k], larger(m, -m));
    }
    const Vector old = load_some(entry.v + i, count);
    const Vector v = old + kept_v * (g * g - old);
    store_some(entry.new_v + i, v, count);
    total += v;
  }
  for (int k = 0; k < kMomenta; ++k) {
    float maximum = 0;
    for (int i = 0; i < LANES; ++i) maximum = largest[k][i] > maximum ? largest[k][i] : maximum;
    entry.largest[piece * kMomenta + k] = maximum;
  }
  entry.totals[piece] = sum_of(total);
  if (!call.HasFactors()) return;
  float* const of_columns = entry.column_sums + piece * call.columns;
  std::memset(of_columns, 0, call.columns * sizeof(float));
  for (int64_t start = first; start < last; start += call.columns) {
    const float* const v = entry.new_v + start;
    Vector of_row{};
    for (int64_t j = 0; j < call.columns; j += LANES) {
      const int64_t count = call.columns - j;
      const Vector x = load_some(v + j, count);
      store_some(of_columns + j, load_some(of_columns + j, count) + x, count);
      of_row += x;
    }
    entry.rows[start / call.columns] = sum_of(of_row);
  }
}

// What Adafactor's second moment makes of one over its root, for a block of coordinates: zero where
// the tensor is no matrix.
INLINE void factors_of(const General& call, const Entry& entry, int64_t start, int64_t count,
                       float* factors) {
  if (!call.HasFactors()) return;
  int64_t row = start / call.columns, column = start % call.columns;
  for (int64_t i = 0; i < count; ++row, column = 0) {
    const int64_t rest = call.columns - column, length = rest < count - i ? rest : count - i;
    const float of_row = entry.rows[row];
    const float* const of_columns = entry.columns + column;
    for (int64_t j = 0; j < length; ++j) factors[i + j] = of_row * of_columns[j];
    i += length;
  }
}

// What is known of a few coordinates after the first pass.
struct Coordinates {
  Vector g, theta, m[kMomenta], v, reciprocal, nesterov;
};

// Without a network the second moment is read only where it divides the momentum.
template <bool kNetwork>
INLINE Coordinates coordinates_of(const General& call, const Entry& entry, int64_t i,
                                  int64_t count) {
  Coordinates x = {};
  x.g = entry.scale_of_g * load_some(entry.g + i, count);
  x.theta = load_some(entry.theta + i, count);
  EACH(k, kMomenta)
    x.m[k] = entry.scale_of_m[k] * load_some(entry.new_m + k * call.n + i, count);
  const float kept = entry.kept[kNesterov];
  x.nesterov = (1.0f - kept) * x.m[kNesterov] + kept * x.g;
  if (kNetwork || call.adaptive) {
    x.v = entry.scale_of_v * (entry.scale_of_v * load_some(entry.new_v + i, count));
    x.reciprocal = 1.0f / root_of(x.v + kEpsilon);
  }
  if (call.adaptive) x.nesterov *= x.reciprocal;
  return x;
}

// The features that are divided by their rms, before they are.
INLINE void features_of(const Coordinates& x, Vector factor, Vector* features) {
  features[0] = x.g;
  features[1] = x.theta;
  features[5] = x.g * x.reciprocal;
  features[9] = x.g * factor;
  EACH(k, kMomenta) {
    features[2 + k] = x.m[k];
    features[6 + k] = x.m[k] * x.reciprocal;
    if (k >= kNesterov) features[10 + k - kNesterov] = x.m[k] * factor;
  }
}

// Second pass: sums of the squares of a piece's features, and of some products. Without a network
// the features that no signal is made of are left out.
template <bool kNetwork>
INLINE void sum_piece(const General& call, Entry& entry, int64_t piece) {
  const int64_t first = call.Begin(piece), last = call.Begin(piece + 1);
  float factors[BLOCK] = {};
  Vector sums[kSums] = {};
  for (int64_t start = first; start < last; start += BLOCK) {
    const int64_t count = last - start < BLOCK ? last - start : BLOCK;
    if (kNetwork) factors_of(call, entry, start, count, factors);
    for (int64_t j = 0; j < count; j += LANES) {
      const Coordinates x = coordinates_of<kNetwork>(call, entry, start + j, count - j);
      Vector features[kScaled];
      features_of(x, load(factors + j), features);
      ALL(k, kNetwork ? kScaled : kOfM + kMomenta) sums[k] += features[k] * features[k];
      sums[kOfNesterov] += x.nesterov * x.nesterov;
      sums[kFirstAlignment] += x.g * x.m[kNesterov];
      sums[kSecondAlignment] += x.m[0] * x.m[kMomenta - 1];
    }
  }
  for (int k = 0; k < kSums; ++k) entry.sums[piece * kSums + k] = sum_of(sums[k]);
}

void sum(const General& call, Entry& entry, float*, int64_t piece) {
  if (call.num_layers > 0) {
    sum_piece<true>(call, entry, piece);
  } else {
    sum_piece<false>(call, entry, piece);
  }
}

// A layer's `kGroup` units at a time, of `count` coordinates of a block.
template <int kGroup, bool kRelu>
INLINE void dense(const Packed& layer, const float* x, int64_t count, float* y) {
  for (int u = 0; u < layer.units; u += kGroup) {
    const float* const w = layer.w + static_cast<int64_t>(u) * layer.inputs;
    for (int64_t start = 0; start < count; start += LANES * TILE) {
      Vector a[kGroup][TILE];
      EACH(r, kGroup)
        EACH(j, TILE) a[r][j] = all(layer.bias[u + r]);
      for (int k = 0; k < layer.inputs; ++k) {
        EACH(j, TILE) {
          const Vector in = load(x + k * BLOCK + start + j * LANES);
          EACH(r, kGroup) a[r][j] += w[k * kGroup + r] * in;
        }
      }
      EACH(r, kGroup)
        EACH(j, TILE)
          store(y + (u + r) * BLOCK + start + j * LANES, kRelu ? relu(a[r][j]) : a[r][j]);
    }
  }
}

// Third pass: the direction of a piece, zero where the tensor had no gradient for long. The first
// layer's weights are already divided by the rms of what they multiply.
void answer(const General& call, Entry& entry, float* room, int64_t piece) {
  const int64_t first = call.Begin(piece), last = call.Begin(piece + 1);
  if (entry.is_still) {
    std::memset(entry.u + first, 0, (last - first) * sizeof(float));
    return;
  }
  if (call.num_layers == 0) {
    for (int64_t i = first; i < last; i += LANES) {
      const Coordinates of = coordinates_of<false>(call, entry, i, last - i);
      store_some(entry.u + i, entry.scale_of_nesterov * of.nesterov, last - i);
    }
    return;
  }
  float* const x = room;
  float* const y = x + call.room_rows * BLOCK;
  float factors[BLOCK] = {}, harness[BLOCK];
  for (int64_t start = first; start < last; start += BLOCK) {
    const int64_t count = last - start < BLOCK ? last - start : BLOCK;
    factors_of(call, entry, start, count, factors);
    for (int64_t j = 0; j < count; j += LANES) {
      const Coordinates of = coordinates_of<true>(call, entry, start + j, count - j);
      store(harness + j, entry.scale_of_nesterov * of.nesterov);
      Vector features[kScaled + 1];
      features_of(of, load(factors + j), features);
      features[kScaled] = log_of((of.v + kEpsilon) * entry.over_mean_v);
      ALL(k, kScaled + 1) store(x + k * BLOCK + j, features[k]);
    }
    const float* in = x;
    for (int l = 0; l < call.num_layers; ++l) {
      float* const out = in == x ? y : x;
      if (l + 1 < call.num_layers) {
        dense<kGroup, true>(entry.layers[l], in, count, out);
      } else {
        dense<1, false>(entry.layers[l], in, count, out);
      }
      in = out;
    }
    for (int64_t j = 0; j < count; j += LANES) {
      store_some(entry.u + start + j, load(harness + j) + load(in + j), count - j);
    }
  }
}

#undef INLINE
#undef EACH
#undef ALL
