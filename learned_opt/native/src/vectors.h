// Vectors of LANES floats, for the code of one instruction set.
//
// This file has no include guard: the files that are compiled for several instruction sets include
// it once for each, with
// - LANES: the floats in a vector register,
// - TILE: the vectors of coordinates that are computed together, as the registers allow,
// - BLOCK: the coordinates of a block, a multiple of LANES * TILE, as the caches allow.

constexpr int kLanes = LANES;
constexpr int kBlock = BLOCK;

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int Bits __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
INLINE void store(float* p, Vector x) { *reinterpret_cast<Unaligned*>(p) = x; }
INLINE Vector all(float x) { return x - Vector{}; }

INLINE Vector reciprocal(Vector x) {
#if LANES == 16
  // An estimate of fourteen bits and one step of Newton's method: a division would cost more than
  // the polynomials around it.
  Vector y = reinterpret_cast<Vector>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

// `x` between -limit and limit. NaN stays NaN: where one of two operands is NaN, the instructions
// return the second.
INLINE Vector clamp(Vector x, float limit) {
#if LANES == 16
  return _mm512_max_ps(all(-limit), _mm512_min_ps(all(limit), x));
#elif LANES == 8
  return _mm256_max_ps(all(-limit), _mm256_min_ps(all(limit), x));
#elif defined(__x86_64__)
  return _mm_max_ps(all(-limit), _mm_min_ps(all(limit), x));
#else
  x = x > limit ? all(limit) : x;
  return x < -limit ? all(-limit) : x;
#endif
}

INLINE float sum_of(Vector x) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += x[i];
  return total;
}
