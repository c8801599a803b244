// One pass of a decoder over new tokens, with weights of 8 or 4 bits: what `compression/narrow.py` calls.
//
// One instruction multiplies four inputs with sixteen outputs, so weights stand in that order: in 8 bits as bytes
// w + 128, [outputs / 16][inputs / 4][16][4]; in 4 bits as [outputs / 16][inputs / 32], where each group of 32 inputs
// has 16 scales in half precision, then 4 x 64 bytes whose low halves are four inputs and whose high halves the next
// four, w + 8 each. Inputs are quantised row by row, sums are exact integers, and all that is not is computed row by
// row in one order: what a row gets never depends on the rows beside it.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#ifndef __AVX512VNNI__
#error "this processor multiplies no bytes sixteen at a time"
#endif

extern "C" {

struct Linear {
    const uint8_t* weight;
    const float* scale;  // of each output; null in 4 bits
    const float* bias;   // or null
    int64_t inputs, outputs;
};

struct Layer {
    Linear query_key_value, output, up, down;
    const float *attention_norm, *attention_norm_bias, *feed_forward_norm, *feed_forward_norm_bias;
    const float *query_norm, *key_norm;  // or null
};

struct Decoder {
    int64_t layers, width, heads, kv_heads, head_size;
    int64_t gated;  // SwiGLU of [gate | up], else the tanh form of GELU
    float eps;
    const Layer* layer;
    const float *norm, *norm_bias;  // the last one; a norm without bias is RMSNorm
};

struct Cache {
    float *keys, *values;  // (L, B, Hkv, max_length, K)
    int64_t rows, max_length, length;
};
}

namespace {

constexpr int kRows = 8;     // of inputs that share a read of the weights
constexpr int kGroup = 32;   // inputs that share a scale in 4 bits
constexpr int kTile = 288;   // bytes of a group of 16 outputs
constexpr int kAhead = 4096;  // bytes of weights that are asked for before they are needed

// Bytes of each row, what they count for, and their sums: what w + 128 and w + 8 add too much is a multiple of them.
struct Bytes {
    std::vector<int8_t> values;
    std::vector<float> unit;
    std::vector<int32_t> sum, group_sums;  // (rows,), (rows, width / kGroup)

    void take(const float* x, int64_t rows, int64_t width) {
        values.resize(rows * width);
        unit.resize(rows);
        sum.resize(rows);
        const int64_t groups = width / kGroup;
        group_sums.resize(rows * groups);
        for (int64_t r = 0; r < rows; ++r) {
            const float* row = x + r * width;
            int8_t* out = values.data() + r * width;
            float largest = 0;
            for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(row[i]));
            const float times = largest > 0 ? 127 / largest : 0;
            for (int64_t i = 0; i < width; ++i) out[i] = static_cast<int8_t>(std::nearbyint(row[i] * times));
            unit[r] = largest / 127;
            sum[r] = 0;
            for (int64_t i = groups * kGroup; i < width; ++i) sum[r] += out[i];
            for (int64_t g = 0; g < groups; ++g) {
                int32_t part = 0;
                for (int64_t i = 0; i < kGroup; ++i) part += out[g * kGroup + i];
                group_sums[r * groups + g] = part;
                sum[r] += part;
            }
        }
    }
};

inline __m512i four(const int8_t* from) {
    return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from));
}

// Sixteen outputs from sums that count for `unit` each.
inline void store(const Linear& linear, int64_t first, __m512 sums, float unit, float* out) {
    const int64_t left = linear.outputs - first;
    const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
    const __m512 bias = linear.bias ? _mm512_maskz_loadu_ps(mask, linear.bias + first) : _mm512_setzero_ps();
    _mm512_mask_storeu_ps(out, mask, _mm512_fmadd_ps(sums, _mm512_set1_ps(unit), bias));
}

template <int ROWS>
inline void block4(const Linear& linear, const Bytes& x, int64_t first_row, int64_t first, float* out) {
    const int64_t width = linear.inputs, groups = width / kGroup;
    const uint8_t* tile = linear.weight + first / 16 * groups * kTile;
    const int8_t* row = x.values.data() + first_row * width;
    const int32_t* sum = x.group_sums.data() + first_row * groups;
    const __m512i low = _mm512_set1_epi8(15);
    __m512 totals[ROWS];
    for (auto& total : totals) total = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g, tile += kTile, row += kGroup) {
        for (int ahead = 0; ahead < kTile; ahead += 64)
            _mm_prefetch(reinterpret_cast<const char*>(tile + kAhead + ahead), _MM_HINT_T0);
        const __m512 scale =
            _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile)));
        __m512i sums[ROWS][2];
        for (auto& pair : sums) pair[0] = pair[1] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const __m512i both = _mm512_loadu_si512(tile + 32 + 64 * j);
            const __m512i first4 = _mm512_and_si512(both, low);
            const __m512i next4 = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], first4, four(row + r * width + 8 * j));
                sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], next4, four(row + r * width + 8 * j + 4));
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const __m512i whole = _mm512_sub_epi32(_mm512_add_epi32(sums[r][0], sums[r][1]),
                                                   _mm512_set1_epi32(8 * sum[r * groups + g]));
            totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, totals[r]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        store(linear, first, totals[r], x.unit[first_row + r], out + (first_row + r) * linear.outputs + first);
}

template <int ROWS>
inline void block8(const Linear& linear, const Bytes& x, int64_t first_row, int64_t first, float* out) {
    const int64_t width = linear.inputs;
    const uint8_t* weight = linear.weight + first * width;
    const int8_t* row = x.values.data() + first_row * width;
    __m512i sums[ROWS][2];
    for (auto& pair : sums) pair[0] = pair[1] = _mm512_setzero_si512();
    auto multiply = [&](int64_t i, int which) {
        const __m512i w = _mm512_loadu_si512(weight + i * 16);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
            sums[r][which] = _mm512_dpbusd_epi32(sums[r][which], w, four(row + r * width + i));
    };
    int64_t i = 0;
    for (; i + 8 <= width; i += 8) {
        _mm_prefetch(reinterpret_cast<const char*>(weight + i * 16 + kAhead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(weight + i * 16 + kAhead + 64), _MM_HINT_T0);
        multiply(i, 0);
        multiply(i + 4, 1);
    }
    for (; i < width; i += 4) multiply(i, 0);
    const int64_t left = linear.outputs - first;
    const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
    const __m512 scale = _mm512_maskz_loadu_ps(mask, linear.scale + first);
    for (int r = 0; r < ROWS; ++r) {
        const __m512i whole = _mm512_sub_epi32(_mm512_add_epi32(sums[r][0], sums[r][1]),
                                               _mm512_set1_epi32(128 * x.sum[first_row + r]));
        store(linear, first, _mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale), x.unit[first_row + r],
              out + (first_row + r) * linear.outputs + first);
    }
}

template <int ROWS>
inline void block(const Linear& linear, const Bytes& x, int64_t first_row, int64_t first, float* out) {
    if (linear.scale)
        block8<ROWS>(linear, x, first_row, first, out);
    else
        block4<ROWS>(linear, x, first_row, first, out);
}

void multiply(const Linear& linear, const Bytes& x, int64_t rows, float* out) {
    using Block = void (*)(const Linear&, const Bytes&, int64_t, int64_t, float*);
    static constexpr Block by_rows[kRows] = {block<1>, block<2>, block<3>, block<4>,
                                             block<5>, block<6>, block<7>, block<8>};
    const int64_t blocks = (linear.outputs + 15) / 16;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; ++b)
        for (int64_t r = 0; r < rows; r += kRows)
            by_rows[std::min<int64_t>(rows - r, kRows) - 1](linear, x, r, 16 * b, out);
}

void norm(const float* x, const float* weight, const float* bias, float eps, int64_t width, float* out) {
    float mean = 0, square = 0;
    if (bias) {
        for (int64_t i = 0; i < width; ++i) mean += x[i];
        mean /= width;
    }
    for (int64_t i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1 / std::sqrt(square / width + eps);
    if (bias)
        for (int64_t i = 0; i < width; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    else
        for (int64_t i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
}

// Component i and i + K / 2 turn by the angle of the position.
void rotate(float* x, const float* cosine, const float* sine, int64_t size) {
    for (int64_t i = 0; i < size / 2; ++i) {
        const float a = x[i], b = x[i + size / 2];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + size / 2] = b * cosine[i] + a * sine[i];
    }
}

// The values that one query mixes; it sees those of `seen`, or all. PARTS: of sixteen numbers, that a head has.
template <bool MASKED, int PARTS>
void attend(const float* query, const float* keys, const float* values, int64_t held, const uint8_t* seen,
            int64_t size, float* scores, float* out) {
    const float scale = 1 / std::sqrt(static_cast<float>(size));
    const __mmask16 rest = static_cast<__mmask16>(0xffff >> (16 * PARTS - size));  // of the last part
    const auto load = [&](const float* from, int i) {
        return i < PARTS - 1 ? _mm512_loadu_ps(from + 16 * i) : _mm512_maskz_loadu_ps(rest, from + 16 * i);
    };
    __m512 asked[PARTS], mixed[PARTS];
    for (int i = 0; i < PARTS; ++i) asked[i] = load(query, i), mixed[i] = _mm512_setzero_ps();
    float largest = -3e38f, total = 0;
    for (int64_t s = 0; s < held; ++s) {
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < PARTS; ++i) sum = _mm512_fmadd_ps(asked[i], load(keys + s * size, i), sum);
        scores[s] = MASKED && !seen[s] ? -3e38f : _mm512_reduce_add_ps(sum) * scale;
    }
    for (int64_t s = 0; s < held; ++s) largest = std::max(largest, scores[s]);
    for (int64_t s = 0; s < held; ++s) scores[s] = std::exp(std::max(scores[s] - largest, -80.0f));
    for (int64_t s = 0; s < held; ++s) {
        if (MASKED && !seen[s]) scores[s] = 0;
        total += scores[s];
    }
    for (int64_t s = 0; s < held; ++s) {
        if (MASKED && scores[s] == 0) continue;
        const __m512 share = _mm512_set1_ps(scores[s]);
        for (int i = 0; i < PARTS; ++i) mixed[i] = _mm512_fmadd_ps(share, load(values + s * size, i), mixed[i]);
    }
    const __m512 all = _mm512_set1_ps(total);
    for (int i = 0; i < PARTS; ++i)
        _mm512_mask_storeu_ps(out + 16 * i, i < PARTS - 1 ? 0xffff : rest, _mm512_div_ps(mixed[i], all));
}

using Attend = void (*)(const float*, const float*, const float*, int64_t, const uint8_t*, int64_t, float*, float*);
template <bool MASKED>
constexpr Attend attend_by_parts[] = {attend<MASKED, 1>, attend<MASKED, 2>, attend<MASKED, 3>, attend<MASKED, 4>,
                                      attend<MASKED, 5>, attend<MASKED, 6>, attend<MASKED, 7>, attend<MASKED, 8>};

struct Pass {
    const Decoder& model;
    const Cache& cache;
    int64_t batch, length;
    const uint8_t* seen;  // (B, T, S) or null: all that is held, and what stands before
    const float *cosine, *sine;  // (B * T, K / 2) or null

    // Norm and turn queries and keys, write keys and values to the cache, and mix the values.
    void attention(int64_t number, float* joined, float* mixed) const {
        const Layer& layer = model.layer[number];
        const int64_t size = model.head_size, heads = model.heads, kv = model.kv_heads;
        const int64_t wide = (heads + 2 * kv) * size, held = cache.length + length;
        const int64_t row_stride = kv * cache.max_length * size;
        float* keys = cache.keys + number * cache.rows * row_stride;
        float* values = cache.values + number * cache.rows * row_stride;
        const Attend read = (seen ? attend_by_parts<true> : attend_by_parts<false>)[(size - 1) / 16];
#pragma omp parallel for collapse(2) schedule(static)
        for (int64_t b = 0; b < batch; ++b) {
            for (int64_t g = 0; g < kv; ++g) {
                static thread_local std::vector<float> scores;
                scores.resize(held);
                float* own_keys = keys + b * row_stride + g * cache.max_length * size;
                float* own_values = values + b * row_stride + g * cache.max_length * size;
                for (int64_t t = 0; t < length; ++t) {
                    const int64_t n = b * length + t;
                    float* key = joined + n * wide + (heads + g) * size;
                    turn(key, layer.key_norm, n);
                    std::copy(key, key + size, own_keys + (cache.length + t) * size);
                    const float* value = joined + n * wide + (heads + kv + g) * size;
                    std::copy(value, value + size, own_values + (cache.length + t) * size);
                }
                for (int64_t t = 0; t < length; ++t) {
                    const int64_t n = b * length + t;
                    const uint8_t* sees = seen ? seen + n * held : nullptr;
                    const int64_t reach = seen ? held : cache.length + t + 1;
                    for (int64_t h = g * heads / kv; h < (g + 1) * heads / kv; ++h) {
                        float* query = joined + n * wide + h * size;
                        turn(query, layer.query_norm, n);
                        read(query, own_keys, own_values, reach, sees, size, scores.data(),
                             mixed + (n * heads + h) * size);
                    }
                }
            }
        }
    }

    void turn(float* x, const float* weight, int64_t n) const {
        const int64_t size = model.head_size;
        if (weight) norm(x, weight, nullptr, model.eps, size, x);
        if (cosine) rotate(x, cosine + n * (size / 2), sine + n * (size / 2), size);
    }
};

void activate(const float* wide, int64_t inner, bool gated, float* out) {
    if (gated)
        for (int64_t i = 0; i < inner; ++i) out[i] = wide[i] / (1 + std::exp(-wide[i])) * wide[inner + i];
    else
        for (int64_t i = 0; i < inner; ++i) {
            const float x = wide[i], u = 1.5957691216057308f * (x + 0.044715f * x * x * x);
            out[i] = x / (1 + std::exp(-u));  // 0.5 x (1 + tanh(u / 2))
        }
}

}  // namespace

extern "C" {

// x: (rows, inputs) -> out: (rows, outputs)
void linear(const Linear* self, const float* x, int64_t rows, float* out) {
    static thread_local Bytes bytes;
    bytes.take(x, rows, self->inputs);
    multiply(*self, bytes, rows, out);
}

// x: (B * T, D), embeddings that become hidden states after the last norm.
void encode(const Decoder* model, const Cache* cache, int64_t batch, int64_t length, const uint8_t* seen,
            const float* cosine, const float* sine, float* x) {
    static thread_local Bytes bytes;
    static thread_local std::vector<float> normed, joined, mixed, wide;
    const int64_t rows = batch * length, width = model->width, size = model->head_size;
    const Pass pass{*model, *cache, batch, length, seen, cosine, sine};
    normed.resize(rows * width);
    auto norm_all = [&](const float* weight, const float* bias, float* out) {
        for (int64_t r = 0; r < rows; ++r) norm(x + r * width, weight, bias, model->eps, width, out + r * width);
    };
    auto apply = [&](const Linear& layer, const float* in, std::vector<float>& out) {
        out.resize(rows * layer.outputs);
        bytes.take(in, rows, layer.inputs);
        multiply(layer, bytes, rows, out.data());
    };
    auto add = [&](const std::vector<float>& from) {
        for (int64_t i = 0; i < rows * width; ++i) x[i] += from[i];
    };
    for (int64_t number = 0; number < model->layers; ++number) {
        const Layer& layer = model->layer[number];
        norm_all(layer.attention_norm, layer.attention_norm_bias, normed.data());
        apply(layer.query_key_value, normed.data(), joined);
        mixed.resize(rows * model->heads * size);
        pass.attention(number, joined.data(), mixed.data());
        apply(layer.output, mixed.data(), normed);
        add(normed);
        norm_all(layer.feed_forward_norm, layer.feed_forward_norm_bias, normed.data());
        apply(layer.up, normed.data(), wide);
        const int64_t inner = layer.down.inputs;
        for (int64_t r = 0; r < rows; ++r)  // in place: a row shrinks to its beginning
            activate(wide.data() + r * layer.up.outputs, inner, model->gated, wide.data() + r * inner);
        apply(layer.down, wide.data(), normed);
        add(normed);
    }
    norm_all(model->norm, model->norm_bias, x);
}
}
