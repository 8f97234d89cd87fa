// A stack of LSTM layers with a linear output, run on one block of coordinates: the work of one
// core.
//
// This file has no include guard: lstm.cc includes it once for each instruction set, with what
// vectors.h needs. Take care with templates of the standard library here: one that is instantiated
// with wide instructions could be linked into code that runs on machines without them. Nothing here
// allocates memory or throws: these functions run on XLA's threads.
//
// Arrays of a block are [rows][BLOCK]. A layer reads z_t = [x_t; h_tm1], so h_t is written to its
// place in z_{t+1}.

#include "vectors.h"

// The rational approximation that XLA and Eigen use; its error is a few units in the last place.
// Where `x` is clamped it exceeds one, so the last clamp makes a saturated value exactly one and
// its derivative exactly zero, however large the gradient that it multiplies.
INLINE Vector tanh_of(Vector x) {
  x = clamp(x, 10.0f);
  const Vector s = x * x;
  Vector p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = s * p + -8.60467152213735e-11f;
  p = s * p + 5.12229709037114e-08f;
  p = s * p + 1.48572235717979e-05f;
  p = s * p + 6.37261928875436e-04f;
  p = s * p + 4.89352455891786e-03f;
  Vector q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = s * q + 2.26843463243900e-03f;
  q = s * q + 4.89352518554385e-03f;
  return clamp(x * p * reciprocal(q), 1.0f);
}

// Computed from an exponential: then a nearly closed gate too is right to a few units in its last
// place, as (1 + tanh(x / 2)) / 2 would not be.
INLINE Vector sigmoid_of(Vector x) {
  const Vector t = clamp(x, 87.0f) * -1.44269504088896f;  // exp(-x) = 2^t
  const Vector shifted = t + 12582912.0f;  // 1.5 * 2^23: the last bits hold t, rounded
  const Vector f = t - (shifted - 12582912.0f);
  Vector p = f * 1.32647239e-3f + 9.67151287e-3f;
  p = f * p + 5.55073375e-2f;
  p = f * p + 2.40222421e-1f;
  p = f * p + 6.93146978e-1f;
  p = f * p + 1.0f;
  const Vector power =
      reinterpret_cast<Vector>((reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000);
  return reciprocal(p * power + 1.0f);
}

// What a step stores for the reverse pass; null where there is none.
struct Kept {
  float* gates;   // [4 * units][BLOCK]: input, forget, cell, output, after their nonlinearities
  float* tanh_c;  // [units][BLOCK]
};

// State that will be read soon, with a unit's row every `stride` floats; null where there is none.
struct Next {
  const float *h, *c;
  int64_t stride;
};

// A processor cannot predict accesses to so many rows at a time.
INLINE void prefetch(const float* row) {
  EACH(line, BLOCK / 16) __builtin_prefetch(row + line * 16, 1, 2);
}

// One step of one layer: reads z [inputs + units][BLOCK] and c_tm1 [units][BLOCK]; writes c_t
// (which may be c_tm1) and h_t, and h_t once more to `above` unless that is null.
template <bool kKeep>
INLINE void cell(const Layer& layer, const float* z, const float* c_tm1, float* c_t, float* h_t,
                 float* above, Kept kept, Next next) {
  const int rows = layer.inputs + layer.units;
  for (int u = 0; u < layer.units; ++u) {
    if (next.h) {
      prefetch(next.h + u * next.stride);
      prefetch(next.c + u * next.stride);
    }
    const float* w = layer.by_unit + static_cast<long>(u) * 4 * rows;
    for (int start = 0; start < BLOCK; start += LANES * TILE) {
      Vector a[4][TILE];
      EACH(g, 4)
        EACH(j, TILE) a[g][j] = all(layer.bias[g * layer.units + u]);
      for (int k = 0; k < rows; ++k) {
        EACH(j, TILE) {
          const Vector x = load(z + k * BLOCK + start + j * LANES);
          EACH(g, 4) a[g][j] += w[4 * k + g] * x;
        }
      }
      EACH(j, TILE) {
        const int at = u * BLOCK + start + j * LANES;
        const Vector i = sigmoid_of(a[0][j]), f = sigmoid_of(a[1][j]), g = tanh_of(a[2][j]),
                     o = sigmoid_of(a[3][j]);
        const Vector c = f * load(c_tm1 + at) + i * g;
        const Vector tanh_c = tanh_of(c);
        const Vector h = o * tanh_c;
        store(c_t + at, c);
        store(h_t + at, h);
        if (above) store(above + at, h);
        if (kKeep) {
          const long gate = static_cast<long>(layer.units) * BLOCK;
          store(kept.gates + at, i);
          store(kept.gates + gate + at, f);
          store(kept.gates + 2 * gate + at, g);
          store(kept.gates + 3 * gate + at, o);
          store(kept.tanh_c + at, tanh_c);
        }
      }
    }
  }
}

// y [BLOCK] = w . h + b.
INLINE void output(const Output& out, const float* h, float* y) {
  for (int j = 0; j < BLOCK; j += LANES) {
    Vector total = all(out.bias);
    for (int u = 0; u < out.units; ++u) total += out.weights[u] * load(h + u * BLOCK + j);
    store(y + j, total);
  }
}

// The derivative of the nonlinearities of a step: replaces the gates by the cotangents of their
// inputs.
INLINE void cell_backward(const Layer& layer, const float* c_tm1, const float* dh, float* dc,
                          Kept kept) {
  const long gate = static_cast<long>(layer.units) * BLOCK;
  for (long at = 0; at < gate; at += LANES) {
    float* const p = kept.gates + at;
    const Vector i = load(p), f = load(p + gate), g = load(p + 2 * gate), o = load(p + 3 * gate);
    const Vector t = load(kept.tanh_c + at), d = load(dh + at);
    const Vector dc_t = load(dc + at) + d * o * (1.0f - t * t);
    store(p, dc_t * g * i * (1.0f - i));
    store(p + gate, dc_t * load(c_tm1 + at) * f * (1.0f - f));
    store(p + 2 * gate, dc_t * i * (1.0f - g * g));
    store(p + 3 * gate, d * t * o * (1.0f - o));
    store(dc + at, dc_t * f);
  }
}

// The cotangent of z_t from row `first` on, from the cotangents of the gates: rows below
// layer.inputs are added to `dx`, the others replace `dh`.
INLINE void input_backward(const Layer& layer, const float* gates, int first, float* dx,
                           float* dh) {
  const int rows = layer.inputs + layer.units;
  for (int k0 = first; k0 < rows; k0 += 4) {
    for (int start = 0; start < BLOCK; start += LANES * TILE) {
      Vector a[4][TILE];
      EACH(r, 4)
        EACH(j, TILE) a[r][j] = Vector{};
      for (int g = 0; g < 4 * layer.units; ++g) {
        // The weights of four rows, side by side; rows of `transposed` are three floats longer for
        // this.
        const float* w = layer.transposed + static_cast<long>(g) * layer.transposed_stride + k0;
        EACH(j, TILE) {
          const Vector x = load(gates + static_cast<long>(g) * BLOCK + start + j * LANES);
          EACH(r, 4) a[r][j] += w[r] * x;
        }
      }
      EACH(r, 4) {
        const int k = k0 + r;
        if (k >= rows) break;
        EACH(j, TILE) {
          const int at = start + j * LANES;
          if (k >= layer.inputs) {
            store(dh + (k - layer.inputs) * BLOCK + at, a[r][j]);
          } else {
            store(dx + k * BLOCK + at, load(dx + k * BLOCK + at) + a[r][j]);
          }
        }
      }
    }
  }
}

// Adds to dw [4 * units][inputs + units] and db [4 * units] of a layer the sums over steps and
// coordinates of gates z^T and of gates.
INLINE void weights_backward(const Layer& layer, int steps, const float* gates, const float* z,
                             long gates_stride, long z_stride, float* dw, float* db) {
  const int rows = layer.inputs + layer.units;
  for (int g0 = 0; g0 < 4 * layer.units; g0 += 4) {
    for (int k0 = 0; k0 < rows; k0 += 4) {
      Vector a[4][4];
      EACH(r, 4)
        EACH(s, 4) a[r][s] = Vector{};
      // Beyond the last row this reads other values, whose sums are dropped; z has room for it.
      for (int t = 0; t < steps; ++t) {
        const float* const d = gates + t * gates_stride + static_cast<long>(g0) * BLOCK;
        const float* const x = z + t * z_stride + static_cast<long>(k0) * BLOCK;
        for (int j = 0; j < BLOCK; j += LANES) {
          Vector right[4];
          EACH(s, 4) right[s] = load(x + s * BLOCK + j);
          EACH(r, 4) {
            const Vector left = load(d + r * BLOCK + j);
            EACH(s, 4) a[r][s] += left * right[s];
          }
        }
      }
      EACH(r, 4)
        EACH(s, 4)
          if (k0 + s < rows) dw[(g0 + r) * static_cast<long>(rows) + k0 + s] += sum_of(a[r][s]);
    }
    EACH(r, 4) {
      Vector total{};
      for (int t = 0; t < steps; ++t) {
        const float* const d = gates + t * gates_stride + static_cast<long>(g0 + r) * BLOCK;
        for (int j = 0; j < BLOCK; j += LANES) total += load(d + j);
      }
      db[g0 + r] += sum_of(total);
    }
  }
}

// Copies columns start .. start + count - 1 of [problems][rows][n], seen as [rows][problems * n],
// to or from [rows][BLOCK].
template <bool kToBlock>
INLINE void copy(float* whole, int64_t rows, int64_t n, int64_t start, int64_t count,
                 float* block) {
  for (int64_t j = 0; j < count;) {
    const int64_t problem = (start + j) / n, column = (start + j) % n;
    const int64_t length = n - column < count - j ? n - column : count - j;
    for (int64_t r = 0; r < rows; ++r) {
      float* const far = whole + (problem * rows + r) * n + column;
      float* const near = block + r * BLOCK + j;
      if (length == BLOCK) {
        EACH(v, BLOCK / LANES) {
          if (kToBlock) {
            store(near + v * LANES, load(far + v * LANES));
          } else {
            store(far + v * LANES, load(near + v * LANES));
          }
        }
      } else {
        std::memcpy(kToBlock ? near : far, kToBlock ? far : near, length * sizeof(float));
      }
    }
    j += length;
  }
}

INLINE void clear(float* block, int64_t rows) {
  std::memset(block, 0, rows * BLOCK * sizeof(float));
}

// The first block of a part, of `blocks` in total: the sizes of parts differ by at most one block.
INLINE int64_t first_block(int64_t part, int64_t num_parts, int64_t blocks) {
  return part * blocks / num_parts;
}

// The floats that a worker needs for a step: y, and z, c and h of each layer.
int64_t step_room(const Step& call) {
  int64_t rows = 1;
  for (const Layer& layer : call.layers) rows += layer.inputs + 3 * layer.units;
  return rows * BLOCK;
}

void step_part(void* data, int worker, int64_t part) {
  const Step& call = *static_cast<Step*>(data);
  const int64_t coordinates = call.problems * call.n, blocks = (coordinates + BLOCK - 1) / BLOCK;
  float* const room = call.room + worker * call.room_size;
  std::memset(room, 0, call.room_size * sizeof(float));
  const int64_t last = first_block(part + 1, call.num_parts, blocks);
  for (int64_t b = first_block(part, call.num_parts, blocks); b < last; ++b) {
    const int64_t start = b * BLOCK,
                  count = coordinates - start < BLOCK ? coordinates - start : BLOCK;
    float* z = room + BLOCK;
    copy<true>(const_cast<float*>(call.x), call.layers[0].inputs, call.n, start, count, z);
    for (size_t l = 0; l < call.layers.size(); ++l) {
      const Layer& layer = call.layers[l];
      float* const h_tm1 = z + layer.inputs * BLOCK;
      float* const c = h_tm1 + layer.units * BLOCK;
      float* const h = c + layer.units * BLOCK;
      copy<true>(const_cast<float*>(layer.h_tm1), layer.units, call.n, start, count, h_tm1);
      copy<true>(const_cast<float*>(layer.c_tm1), layer.units, call.n, start, count, c);
      const Next next{layer.h_tm1 + start + BLOCK, layer.c_tm1 + start + BLOCK, call.n};
      cell<false>(layer, z, c, c, h, nullptr, Kept{},
                  call.problems == 1 && b + 1 < last ? next : Next{});
      copy<false>(layer.h_t, layer.units, call.n, start, count, h);
      copy<false>(layer.c_t, layer.units, call.n, start, count, c);
      z = h;  // the next layer's input
    }
    output(call.out, z, room);
    copy<false>(call.y, 1, call.n, start, count, room);
  }
}

// Runs the network over all steps of a block, and fills z, c and what `Kept` names.
INLINE void forward_block(const PullBack& call, const Plan& plan, float* room, int64_t start,
                          int64_t count) {
  const size_t num_layers = call.layers.size();
  for (size_t l = 0; l < num_layers; ++l) {
    const Layer& layer = call.layers[l];
    const Plan::OfLayer& at = plan.layers[l];
    float* const h_0 = room + at.z + layer.inputs * BLOCK;
    clear(h_0, layer.units);
    clear(room + at.c, layer.units);
    copy<true>(const_cast<float*>(layer.h_tm1), layer.units, call.n, start, count, h_0);
    copy<true>(const_cast<float*>(layer.c_tm1), layer.units, call.n, start, count, room + at.c);
  }
  for (int64_t t = 0; t < call.steps; ++t) {
    const int64_t inputs = call.layers[0].inputs;
    float* const x = room + plan.layers[0].z + t * plan.layers[0].z_stride;
    clear(x, inputs);
    copy<true>(const_cast<float*>(call.x) + t * inputs * call.n, inputs, call.n, start, count, x);
    for (size_t l = 0; l < num_layers; ++l) {
      const Layer& layer = call.layers[l];
      const Plan::OfLayer& at = plan.layers[l];
      const int64_t state = static_cast<int64_t>(layer.units) * BLOCK;
      float* const z = room + at.z + t * at.z_stride;
      float* const above = l + 1 < num_layers
                               ? room + plan.layers[l + 1].z + t * plan.layers[l + 1].z_stride
                               : nullptr;
      cell<true>(layer, z, room + at.c + t * state, room + at.c + (t + 1) * state,
                 z + at.z_stride + layer.inputs * BLOCK, above,
                 Kept{room + at.gates + t * at.gates_stride, room + at.tanh_c + t * state}, Next{});
    }
  }
}

// The reverse pass over the steps of a block: replaces the gates by cotangents, and writes the
// call's dx where that is wanted.
INLINE void backward_block(const PullBack& call, const Plan& plan, float* room, int64_t start,
                           int64_t count) {
  for (size_t l = 0; l < call.layers.size(); ++l) {
    clear(room + plan.layers[l].dh, call.layers[l].units);
    clear(room + plan.layers[l].dc, call.layers[l].units);
  }
  const Plan::OfLayer& top = plan.layers.back();
  const int64_t inputs = call.layers[0].inputs;
  for (int64_t t = call.steps - 1; t >= 0; --t) {
    for (int64_t u = 0; u < call.out.units; ++u) {
      for (int64_t j = 0; j < BLOCK; j += LANES) {
        float* const dh = room + top.dh + u * BLOCK + j;
        store(dh, load(dh) + call.out.weights[u] * load(room + plan.dy + t * BLOCK + j));
      }
    }
    if (call.dx) clear(room + plan.dx, inputs);
    for (int64_t l = static_cast<int64_t>(call.layers.size()) - 1; l >= 0; --l) {
      const Layer& layer = call.layers[l];
      const Plan::OfLayer& at = plan.layers[l];
      const int64_t state = static_cast<int64_t>(layer.units) * BLOCK;
      float* const gates = room + at.gates + t * at.gates_stride;
      cell_backward(layer, room + at.c + t * state, room + at.dh, room + at.dc,
                    Kept{gates, room + at.tanh_c + t * state});
      float* const dx = room + (l > 0 ? plan.layers[l - 1].dh : plan.dx);
      input_backward(layer, gates, l > 0 || call.dx ? 0 : layer.inputs, dx, room + at.dh);
    }
    if (call.dx)
      copy<false>(call.dx + t * inputs * call.n, inputs, call.n, start, count, room + plan.dx);
  }
}

// Adds a block's share to the sums of its part: of the output's w and b, then of each layer's.
INLINE void sum_block(const PullBack& call, const Plan& plan, const float* room, float* sums) {
  const Layer& last = call.layers.back();
  const Plan::OfLayer& top = plan.layers.back();
  for (int64_t u = 0; u <= call.out.units; ++u) {
    Vector total{};
    for (int64_t t = 0; t < call.steps; ++t) {
      const float* const h = room + top.z + (t + 1) * top.z_stride + (last.inputs + u) * BLOCK;
      const float* const dy = room + plan.dy + t * BLOCK;
      for (int64_t j = 0; j < BLOCK; j += LANES)
        total += u < call.out.units ? load(dy + j) * load(h + j) : load(dy + j);
    }
    sums[u] += sum_of(total);
  }
  sums += call.out.units + 1;
  for (size_t l = 0; l < call.layers.size(); ++l) {
    const Layer& layer = call.layers[l];
    const Plan::OfLayer& at = plan.layers[l];
    const int64_t size = 4 * layer.units * static_cast<int64_t>(layer.inputs + layer.units);
    weights_backward(layer, call.steps, room + at.gates, room + at.z, at.gates_stride, at.z_stride,
                     sums, sums + size);
    sums += size + 4 * layer.units;
  }
}

// Turns the cotangents of tanh(y) into those of y, for all steps of a block.
INLINE void through_tanh(const PullBack& call, const Plan& plan, float* room) {
  const Layer& last = call.layers.back();
  const Plan::OfLayer& top = plan.layers.back();
  for (int64_t t = 0; t < call.steps; ++t) {
    output(call.out, room + top.z + (t + 1) * top.z_stride + last.inputs * BLOCK, room + plan.y);
    for (int64_t j = 0; j < BLOCK; j += LANES) {
      const Vector y = tanh_of(load(room + plan.y + j));
      float* const dy = room + plan.dy + t * BLOCK + j;
      store(dy, load(dy) * (1.0f - y * y));
    }
  }
}

void pull_back_part(void* data, int worker, int64_t part) {
  PullBack& call = *static_cast<PullBack*>(data);
  const Plan& plan = call.plan;
  float* const room = call.room + worker * call.room_size;
  const int64_t blocks = (call.n + BLOCK - 1) / BLOCK,
                last = first_block(part + 1, call.num_parts, blocks);
  for (int64_t b = first_block(part, call.num_parts, blocks); b < last; ++b) {
    const int64_t start = b * BLOCK, count = call.n - start < BLOCK ? call.n - start : BLOCK;
    forward_block(call, plan, room, start, count);
    clear(room + plan.dy, call.steps);
    for (int64_t t = 0; t < call.steps; ++t) {
      copy<true>(const_cast<float*>(call.dy) + t * call.n, 1, call.n, start, count,
                 room + plan.dy + t * BLOCK);
    }
    if (call.tanh_of_output) through_tanh(call, plan, room);
    backward_block(call, plan, room, start, count);
    sum_block(call, plan, room, call.sums.data() + part * call.sums_size);
  }
}

#undef INLINE
#undef EACH
