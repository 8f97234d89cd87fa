// Compiles the file that PASSES names for each instruction set, in a namespace of its own.
//
// This file has no include guard: whoever includes it says `#define PASSES "name_block.h"` before.

#if defined(__x86_64__)
BEGIN_TARGET("avx512f,avx512dq,avx512vl,fma")
#define LANES 16
#define TILE 4
#define BLOCK 64
namespace avx512 {
#include PASSES
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
#include PASSES
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
#include PASSES
}  // namespace plain
#undef LANES
#undef TILE
#undef BLOCK
