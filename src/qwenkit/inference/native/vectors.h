// Vectors of LANES floats, and what the products need of them. They are the compiler's own vectors (GCC and Clang), so
// the same lines become AVX2, AVX-512, NEON or plain code; intrinsics only where a compiler does not find the
// instruction by itself. Every operation has one rounding that no optimization may change: the bits of a result must
// not depend on the loop in which it was computed.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

// -DPORTABLE=8 (or 16) compiles the lines that no processor has intrinsics for, with so many lanes, anywhere.
#if defined(__AVX2__) && !defined(PORTABLE)
#define X86_VECTORS 1
#include <immintrin.h>
#elif defined(__aarch64__) && !defined(PORTABLE)
#define NEON_VECTORS 1
#include <arm_neon.h>
#endif

#if X86_VECTORS && defined(__AVX512F__) && defined(__AVX512BW__)
#define WIDE_VECTORS 1
constexpr int LANES = 16;
#elif defined(PORTABLE)
constexpr int LANES = PORTABLE;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int16_t Shorts __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(4 * LANES)));
typedef int16_t HalfWidth __attribute__((vector_size(2 * LANES)));  // LANES of them
typedef uint16_t BFloat16;
struct Float16 { uint16_t bits; };

template <class V> inline V load(const void* from) {
  V vector;
  memcpy(&vector, from, sizeof vector);
  return vector;
}
inline void store(void* to, Floats vector) { memcpy(to, &vector, sizeof vector); }
inline Floats splat(float value) { return value - Floats{}; }
inline Ints splat(int32_t value) { return value + Ints{}; }

// The same words; the compiler may not load them again for each use.
inline Words in_register(Words words) {
#if X86_VECTORS
  asm("" : "+x"(words));
#endif
  return words;
}

// a * b + c, rounded once where the processor can. Nothing else is contracted: the compiler is told not to.
inline Floats fma(Floats a, Floats b, Floats c) {
#if WIDE_VECTORS
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif X86_VECTORS && defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif NEON_VECTORS
  struct Halves { float32x4_t low, high; } x, y, z;
  memcpy(&x, &a, sizeof a), memcpy(&y, &b, sizeof b), memcpy(&z, &c, sizeof c);
  z.low = vfmaq_f32(z.low, x.low, y.low), z.high = vfmaq_f32(z.high, x.high, y.high);
  memcpy(&c, &z, sizeof c);
  return c;
#else
  return a * b + c;
#endif
}

// The sum of all lanes, always in the same order.
inline float sum(Floats v) {
#if X86_VECTORS
#if WIDE_VECTORS
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                              _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v), 1)));
#else
  __m256 half = (__m256)v;
#endif
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
#else
  float lane[LANES];
  memcpy(lane, &v, sizeof v);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) lane[i] += lane[i + width];
  return lane[0];
#endif
}

inline float largest(Floats v) {
  float lane[LANES], most;
  memcpy(lane, &v, sizeof v);
  most = lane[0];
  for (int i = 1; i < LANES; i++) most = lane[i] > most ? lane[i] : most;
  return most;
}

// total + the products of neighbouring 16-bit integers: lane i gets w[2i] * x[2i] + w[2i + 1] * x[2i + 1].
inline Ints pair_products(Ints total, Ints w, Ints x) {
#if WIDE_VECTORS && defined(__AVX512VNNI__)
  return (Ints)_mm512_dpwssd_epi32((__m512i)total, (__m512i)w, (__m512i)x);
#elif WIDE_VECTORS
  return total + (Ints)_mm512_madd_epi16((__m512i)w, (__m512i)x);
#elif X86_VECTORS && defined(__AVXVNNI__)
  return (Ints)_mm256_dpwssd_avx_epi32((__m256i)total, (__m256i)w, (__m256i)x);
#elif X86_VECTORS
  return total + (Ints)_mm256_madd_epi16((__m256i)w, (__m256i)x);
#else
  return total + ((w << 16) >> 16) * ((x << 16) >> 16) + (w >> 16) * (x >> 16);
#endif
}

// LANES float16 numbers, each exact; infinity and NaN stay what they are.
inline Floats load_float16(const void* from) {
#if WIDE_VECTORS
  return (Floats)_mm512_cvtph_ps(load<__m256i>(from));
#elif defined(__F16C__) && defined(__AVX2__)
  return (Floats)_mm256_cvtph_ps(load<__m128i>(from));
#else
  typedef uint16_t Narrow __attribute__((vector_size(2 * LANES)));
  Words bits = __builtin_convertvector(load<Narrow>(from), Words), all = bits & 0x7FFFu;
  Words size = (Words)((Floats)(all << 13) * 0x1p112f);
  size |= (Words)(all >= 0x7C00u) & 0x7F800000u;
  return (Floats)(size | (bits & 0x8000u) << 16);
#endif
}

inline Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }

constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits of a float

// exp(x), to about 2 units in the last place; inputs are held within [-87.3, 88], and NaN stays NaN.
inline Floats exponential(Floats x) {
  x = x < splat(-87.3f) ? splat(-87.3f) : x;
  x = x > splat(88.0f) ? splat(88.0f) : x;
  Floats shifted = fma(x, splat(1.44269504f), splat(ROUNDER));
  Floats n = shifted - ROUNDER;
  Floats r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  Floats p = splat(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma(p, r, splat(c));
  p = fma(p, r * r, r + 1.0f);
  Ints power = ((Ints)shifted - 0x4B400000 + 127) << 23;
  return p * (Floats)power;
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 bits) {
  uint32_t word = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}
inline float to_float(Float16 value) {
  uint32_t all = value.bits & 0x7FFF, word = all << 13;
  float size;
  memcpy(&size, &word, 4);
  size *= 0x1p112f;
  memcpy(&word, &size, 4);
  word |= (all >= 0x7C00 ? 0x7F800000 : 0) | (uint32_t)(value.bits & 0x8000) << 16;
  memcpy(&size, &word, 4);
  return size;
}
inline void assign(float& to, float value) { to = value; }
inline void assign(Float16& to, float value) {  // to the nearest, ties to even; beyond the largest lies infinity
  uint32_t word;
  memcpy(&word, &value, 4);
  uint32_t sign = word >> 16 & 0x8000, size = word & 0x7FFFFFFF, bits;
  float magnitude;
  memcpy(&magnitude, &size, 4);
  if (size > 0x7F800000) bits = 0x7E00;
  else if (magnitude >= 65520.0f) bits = 0x7C00;
  else if (magnitude < 0x1p-14f) bits = (uint32_t)(int32_t)std::nearbyint(magnitude * 0x1p24f);  // multiples of 2^-24
  else bits = (size - (112u << 23) + 0xFFF + (size >> 13 & 1)) >> 13;
  to.bits = sign | bits;
}
inline void assign(BFloat16& to, float value) {  // to the nearest, ties to even; a NaN stays one
  uint32_t word;
  memcpy(&word, &value, 4);
  to = value != value ? 0x7FC0 : (BFloat16)((word + 0x7FFF + ((word >> 16) & 1)) >> 16);
}

// 2 * LANES neighbours in two vectors: float32 and float16 in their order, bf16 as those of even and of odd place.
inline void load_two(const float* from, Floats& a, Floats& b) {
  a = load<Floats>(from), b = load<Floats>(from + LANES);
}
inline void load_two(const Float16* from, Floats& a, Floats& b) {
  a = load_float16(from), b = load_float16(from + LANES);
}
inline void load_two(const BFloat16* from, Floats& a, Floats& b) {
  Words words = load<Words>(from);
  a = (Floats)(words << 16), b = (Floats)(words & 0xFFFF0000u);
}
