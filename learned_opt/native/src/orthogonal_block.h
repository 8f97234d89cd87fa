// The orthogonal matrix nearest to a small one, roughly: the work of one core, in its cache.
//
// This file has no include guard: orthogonal.cc includes it once for each instruction set, with
// what vectors.h needs. What lstm_block.h says of templates, memory and exceptions holds here too.
//
// The matrix stands upright, `tall` rows of `wide` floats, of which the last rows and columns may
// be zeros that fill registers: they stay zeros.

#include "vectors.h"

// kRows rows and kVectors vectors of `factor * start + left^T right`, where left's element (k, i)
// is `left[k * of_k + i * of_i]`.
template <int kRows, int kVectors>
INLINE void tile(const float* left, int64_t of_k, int64_t of_i, const float* right, int64_t depth,
                 int64_t wide, float factor, const float* start, float* to) {
  Vector a[kRows][kVectors];
  EACH(r, kRows)
    EACH(j, kVectors) a[r][j] = factor * load(start + r * wide + j * LANES);
  for (int64_t k = 0; k < depth; ++k) {
    Vector in[kVectors];
    EACH(j, kVectors) in[j] = load(right + k * wide + j * LANES);
    EACH(r, kRows) {
      const float x = left[k * of_k + r * of_i];
      EACH(j, kVectors) a[r][j] += x * in[j];
    }
  }
  EACH(r, kRows)
    EACH(j, kVectors) store(to + r * wide + j * LANES, a[r][j]);
}

// `rows`, a multiple of eight, of `factor * start + left^T right`.
INLINE void product(const float* left, int64_t of_k, int64_t of_i, const float* right,
                    int64_t depth, int64_t rows, int64_t wide, float factor, const float* start,
                    float* to) {
  int64_t j = 0;
  for (; j + TILE * LANES <= wide; j += TILE * LANES) {
    for (int64_t i = 0; i < rows; i += 4) {
      tile<4, TILE>(left + i * of_i, of_k, of_i, right + j, depth, wide, factor,
                    start + i * wide + j, to + i * wide + j);
    }
  }
  for (; j + 2 * LANES <= wide; j += 2 * LANES) {
    for (int64_t i = 0; i < rows; i += 4) {
      tile<4, 2>(left + i * of_i, of_k, of_i, right + j, depth, wide, factor, start + i * wide + j,
                 to + i * wide + j);
    }
  }
  for (; j < wide; j += LANES) {
    for (int64_t i = 0; i < rows; i += 8) {
      tile<8, 1>(left + i * of_i, of_k, of_i, right + j, depth, wide, factor, start + i * wide + j,
                 to + i * wide + j);
    }
  }
}

// Copies a matrix to [tall][wide] or back, transposed where it is wider than tall: some rows at
// once, so that the room's memory is gone through in order.
template <bool kToRoom>
INLINE void copy_matrix(const Orthogonal& call, float* x, float* y) {
  const bool is_upright = call.columns <= call.rows;
  if (is_upright) {
    for (int64_t i = 0; i < call.rows; ++i) {
      float* const row = x + i * call.columns;
      float* const to = y + i * call.wide;
      std::memcpy(kToRoom ? to : row, kToRoom ? row : to, call.columns * sizeof(float));
    }
    return;
  }
  for (int64_t first = 0; first < call.rows; first += LANES) {
    const int64_t last = first + LANES < call.rows ? first + LANES : call.rows;
    for (int64_t j = 0; j < call.columns; ++j) {
      for (int64_t i = first; i < last; ++i) {
        float* const element = x + i * call.columns + j;
        float* const in_room = y + j * call.wide + i;
        if (kToRoom) {
          *in_room = *element;
        } else {
          *element = *in_room;
        }
      }
    }
  }
}

// Divides by the largest number, then by the norm if that is above one.
INLINE void normalise(float* y, int64_t size) {
  Vector larger{};
  for (int64_t i = 0; i < size; i += LANES) {
    const Vector x = load(y + i);
    const Vector without_sign = x < 0.0f ? -x : x;
    larger = without_sign > larger ? without_sign : larger;
  }
  float largest = 0;
  for (int i = 0; i < LANES; ++i) largest = larger[i] > largest ? larger[i] : largest;
  const float over_largest = 1 / (largest > 0 ? largest : 1);
  Vector squares{};
  for (int64_t i = 0; i < size; i += LANES) {
    const Vector x = over_largest * load(y + i);
    squares += x * x;
  }
  const float norm = __builtin_sqrtf(sum_of(squares));
  const float factor = norm <= 1 ? over_largest : over_largest / norm;  // NaN where the norm is
  for (int64_t i = 0; i < size; i += LANES) store(y + i, factor * load(y + i));
}

INLINE void swap(float*& x, float*& y) {
  float* const kept = x;
  x = y;
  y = kept;
}

// `b square + c square^2`, of which a step makes `a y + y (b square + c square^2)`.
INLINE void polynomial(const Orthogonal& call, const float* square, float* to) {
  const int64_t wide = call.wide;
  product(square, wide, 1, square, wide, wide, wide, 0.0f, square, to);
  for (int64_t i = 0; i < wide * wide; i += LANES) {
    store(to + i, call.b * load(square + i) + call.c * load(to + i));
  }
}

// By what the steps that are left multiply a matrix, from its square alone. These matrices are
// polynomials of the square, so they are symmetric and commute. `room` has three of them; the
// answer is one. The square is written over.
INLINE const float* factor_of_steps(const Orthogonal& call, float* square, float* room) {
  const int64_t wide = call.wide, size = wide * wide;
  float* const factor = room;
  float* of_steps = room + size;
  float* other = room + 2 * size;
  for (int64_t step = call.whole_steps; step < call.steps; ++step) {
    polynomial(call, square, factor);
    for (int64_t i = 0; i < wide; ++i) factor[i * wide + i] += call.a;
    if (step == call.whole_steps) {
      std::memcpy(of_steps, factor, size * sizeof(float));
    } else {
      product(of_steps, wide, 1, factor, wide, wide, wide, 0.0f, factor, other);
      swap(of_steps, other);
    }
    if (step + 1 == call.steps) break;
    product(square, wide, 1, factor, wide, wide, wide, 0.0f, factor, other);
    product(other, wide, 1, factor, wide, wide, wide, 0.0f, factor, square);
  }
  return of_steps;
}

void orthogonalise(const Orthogonal& call, float* room, int64_t index) {
  const int64_t size = call.rows * call.columns, wide = call.wide, tall = call.tall;
  float* y = room;
  float* next = y + tall * wide;
  float* square = next + tall * wide;
  float* const factor = square + wide * wide;
  std::memset(y, 0, tall * wide * sizeof(float));
  copy_matrix<true>(call, const_cast<float*>(call.x) + index * size, y);
  normalise(y, tall * wide);
  for (int64_t step = 0; step < call.whole_steps; ++step) {
    product(y, wide, 1, y, tall, wide, wide, 0.0f, y, square);
    polynomial(call, square, factor);
    product(y, 1, wide, factor, wide, tall, wide, call.a, y, next);
    swap(y, next);
  }
  if (call.whole_steps < call.steps) {
    product(y, wide, 1, y, tall, wide, wide, 0.0f, y, square);
    const float* const all_steps = factor_of_steps(call, square, factor);
    product(y, 1, wide, all_steps, wide, tall, wide, 0.0f, y, next);
    swap(y, next);
  }
  copy_matrix<false>(call, call.result + index * size, y);
}

#undef INLINE
#undef EACH
