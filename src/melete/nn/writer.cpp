// One more token of many texts by the decoder of an encoder-decoder (post-norm, Vaswani et al. 2017), in float32: what
// `generation/compiled.py` calls.
//
// Matrices stand in columns of 32 outputs, [outputs / 32][inputs][32], filled up with zeros; so do the numbers of a
// row in between. Each thread takes some of the texts through all layers. All of a text is computed in one order,
// whatever stands beside it.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#ifndef __AVX512F__
#error "this processor multiplies no sixteen floats at a time"
#endif

extern "C" {

struct Matrix {
    const float *weight, *bias;
    int64_t inputs, outputs;  // outputs: a multiple of 32
};

struct Norm {
    const float *weight, *bias;
    double eps;
};

struct Layer {
    Matrix query_key_value, output, cross_query, cross_output, up, down;
    Norm attention_norm, cross_attention_norm, feed_forward_norm;
};

struct Writer {
    int64_t layers, width, heads, activation;  // of 0: ReLU, 1: GELU, 2: SiLU
    const Layer* layer;
    Matrix head;  // what it is filled up with has a bias that nothing is chosen with
    // Where there are matrix units: the same weights as they were, (V, D), and in two parts, see `Tiles`; else null.
    const float* head_rows;
    const uint16_t* head_parts;
};

struct Texts {
    int64_t rows, length;  // tokens that each has already
    int64_t room, places;  // of `held`
    float* held;           // keys and values, (L, room, places, 2, D)
    const int32_t* place;  // (rows, room): of each token in `held`; a new one stands at the place of its row
    const int32_t* source;  // (rows,)
    int64_t source_room;
    const int32_t* source_length;  // (R,)
    const float* const* source_held;  // of each layer, (R, S, 2, D)
};
}

namespace {

constexpr int kColumns = 32, kRows = 14;  // of a tile: its sums fill the registers
constexpr float kNever = -3e38f;          // the score of what is not chosen

int64_t filled(int64_t count) { return (count + kColumns - 1) / kColumns * kColumns; }

template <int ROWS>
void tile(const float* x, int64_t stride, const float* weight, const float* bias, int64_t inputs, float* out,
          int64_t out_stride) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; ++r) {
        sums[r][0] = _mm512_loadu_ps(bias);
        sums[r][1] = _mm512_loadu_ps(bias + 16);
    }
    for (int64_t i = 0; i < inputs; ++i) {
        const __m512 first = _mm512_loadu_ps(weight + i * kColumns);
        const __m512 second = _mm512_loadu_ps(weight + i * kColumns + 16);
#pragma GCC unroll 14
        for (int r = 0; r < ROWS; ++r) {
            const __m512 one = _mm512_set1_ps(x[r * stride + i]);
            sums[r][0] = _mm512_fmadd_ps(one, first, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(one, second, sums[r][1]);
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        _mm512_storeu_ps(out + r * out_stride, sums[r][0]);
        _mm512_storeu_ps(out + r * out_stride + 16, sums[r][1]);
    }
}

using Tile = void (*)(const float*, int64_t, const float*, const float*, int64_t, float*, int64_t);
constexpr Tile kTiles[] = {nullptr,  tile<1>, tile<2>, tile<3>,  tile<4>,  tile<5>,  tile<6>, tile<7>,
                           tile<8>, tile<9>, tile<10>, tile<11>, tile<12>, tile<13>, tile<14>};

// x: (rows, inputs filled up) -> out: (rows, outputs)
void multiply(const Matrix& matrix, const float* x, int64_t rows, float* out) {
    const int64_t stride = filled(matrix.inputs);
    for (int64_t column = 0; column < matrix.outputs; column += kColumns)
        for (int64_t row = 0; row < rows; row += kRows)
            kTiles[std::min<int64_t>(kRows, rows - row)](
                x + row * stride, stride, matrix.weight + column * matrix.inputs, matrix.bias + column,
                matrix.inputs, out + row * matrix.outputs + column, matrix.outputs);
}

#ifdef __AMX_BF16__
// A product with the matrix of the output in matrix units. A float is the sum of two bfloat16, but for its last bits:
// three products of such parts come within a few millionths. Weights: [V / 32][inputs / 32][high, low][columns 0 to
// 15, 16 to 31][16 pairs of inputs][16 columns][2], filled up with zeros.
struct Tiles {
    static constexpr int64_t kSide = 16, kDeep = 32, kBlock = kSide * kDeep;
    std::vector<uint16_t> high, low;  // of the rows, a multiple of 32 of them

    // out: (rows up to a multiple of 32, outputs)
    void multiply(const Matrix& matrix, const uint16_t* weight, const float* x, int64_t rows, float* out) {
        const int64_t deep = filled(matrix.inputs);
        split(x, rows, deep);
        alignas(64) uint8_t shapes[64] = {1};  // the kind; then bytes of a row of each tile, and rows
        for (int tile = 0; tile < 8; ++tile) {
            shapes[16 + 2 * tile] = 64;
            shapes[48 + tile] = kSide;
        }
        _tile_loadconfig(shapes);
        for (int64_t column = 0; column < matrix.outputs; column += 2 * kSide, weight += 4 * deep / kDeep * kBlock)
            for (int64_t row = 0; row < rows; row += 2 * kSide)
                block(weight, matrix.bias + column, row, deep, out + row * matrix.outputs + column, matrix.outputs);
        _tile_release();
    }

    void split(const float* x, int64_t rows, int64_t deep) {
        const int64_t whole = (rows + 2 * kSide - 1) / (2 * kSide) * 2 * kSide * deep;
        high.assign(whole, 0);
        low.assign(whole, 0);
        for (int64_t i = 0; i < rows * deep; i += 16) {
            const __m512 all = _mm512_loadu_ps(x + i);
            const __m256bh first = _mm512_cvtneps_pbh(all);
            const __m512i back = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)first), 16);
            const __m256bh rest = _mm512_cvtneps_pbh(_mm512_sub_ps(all, _mm512_castsi512_ps(back)));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(high.data() + i), (__m256i)first);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(low.data() + i), (__m256i)rest);
        }
    }

    void block(const uint16_t* weight, const float* bias, int64_t row, int64_t deep, float* out, int64_t stride) const {
        _tile_loadd(0, bias, 0);  // one row, again and again
        _tile_loadd(1, bias + kSide, 0);
        _tile_loadd(2, bias, 0);
        _tile_loadd(3, bias + kSide, 0);
        const int64_t next = kSide * deep, bytes = 2 * deep;
        for (int64_t i = row * deep; i < row * deep + deep; i += kDeep, weight += 4 * kBlock) {
            _tile_loadd(4, low.data() + i, bytes);
            _tile_loadd(5, low.data() + i + next, bytes);
            _tile_loadd(6, weight, 64);
            _tile_loadd(7, weight + kBlock, 64);
            add();
            _tile_loadd(4, high.data() + i, bytes);
            _tile_loadd(5, high.data() + i + next, bytes);
            add();
            _tile_loadd(6, weight + 2 * kBlock, 64);
            _tile_loadd(7, weight + 3 * kBlock, 64);
            add();
        }
        _tile_stored(0, out, 4 * stride);
        _tile_stored(1, out + kSide, 4 * stride);
        _tile_stored(2, out + kSide * stride, 4 * stride);
        _tile_stored(3, out + kSide * stride + kSide, 4 * stride);
    }

    static void add() {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
};
#endif

// x + added, of deviation 1 around 0, scaled and shifted.
void add_and_norm(const Norm& norm, const float* added, int64_t width, float* x) {
    float sum = 0, square = 0;
    for (int64_t i = 0; i < width; ++i) sum += x[i] += added[i];
    const float mean = sum / width;
    for (int64_t i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1 / std::sqrt(square / width + static_cast<float>(norm.eps));
    for (int64_t i = 0; i < width; ++i) x[i] = (x[i] - mean) * scale * norm.weight[i] + norm.bias[i];
}

// What the heads of a query mix of values that stand side by side as its keys do.
void attend(const float* query, const std::vector<const float*>& keys, int64_t values, int64_t heads, int64_t size,
            float* scores, float* out) {
    const int64_t count = keys.size();
    const float scale = 1 / std::sqrt(static_cast<float>(size));
    for (int64_t h = 0; h < heads; ++h, query += size, out += size) {
        const int64_t offset = h * size;
        float largest = kNever, total = 0;
        for (int64_t s = 0; s < count; ++s) {
            const float* key = keys[s] + offset;
            float sum = 0;
            for (int64_t i = 0; i < size; ++i) sum += query[i] * key[i];
            scores[s] = sum * scale;
            largest = std::max(largest, scores[s]);
        }
        for (int64_t s = 0; s < count; ++s) total += scores[s] = std::exp(std::max(scores[s] - largest, -80.0f));
        for (int64_t i = 0; i < size; ++i) out[i] = 0;
        for (int64_t s = 0; s < count; ++s) {
            const float share = scores[s] / total;
            const float* value = keys[s] + values + offset;
            for (int64_t i = 0; i < size; ++i) out[i] += share * value[i];
        }
    }
}

void activate(int64_t kind, float* x, int64_t count) {
    if (kind == 0)
        for (int64_t i = 0; i < count; ++i) x[i] = std::max(x[i], 0.0f);
    else if (kind == 1)
        for (int64_t i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1 + std::erf(x[i] * 0.70710678f));
    else
        for (int64_t i = 0; i < count; ++i) x[i] = x[i] / (1 + std::exp(-x[i]));
}

// Texts number `first` and the ones behind it, through all layers; what they are in between stays in the caches.
struct Part {
    const Writer& model;
    const Texts& texts;
    int64_t first, rows;
    std::vector<float> x, wide, mixed, inner, scores;
    std::vector<const float*> keys;  // of what a text sees; values stand behind them

    void run(const float* embedded) {
        const int64_t width = model.width, stride = filled(width);
        x.assign(rows * stride, 0);
        mixed.assign(rows * stride, 0);
        scores.resize(std::max(texts.length + 1, texts.source_room));
        for (int64_t r = 0; r < rows; ++r)
            std::copy_n(embedded + (first + r) * width, width, x.data() + r * stride);
        for (int64_t number = 0; number < model.layers; ++number) {
            const Layer& layer = model.layer[number];
            apply(layer.query_key_value, x);
            look_back(number, layer.query_key_value.outputs);
            take(layer.output, layer.attention_norm, mixed);
            apply(layer.cross_query, x);
            look_across(number, layer.cross_query.outputs);
            take(layer.cross_output, layer.cross_attention_norm, mixed);
            apply(layer.up, x);
            activate(model.activation, wide.data(), rows * layer.up.outputs);
            std::swap(wide, inner);
            take(layer.down, layer.feed_forward_norm, inner);
        }
    }

    void apply(const Matrix& matrix, const std::vector<float>& from) {
        wide.resize(rows * matrix.outputs);
        multiply(matrix, from.data(), rows, wide.data());
    }

    void take(const Matrix& matrix, const Norm& norm, const std::vector<float>& from) {
        apply(matrix, from);
        const int64_t stride = filled(model.width);
        for (int64_t r = 0; r < rows; ++r)
            add_and_norm(norm, wide.data() + r * matrix.outputs, model.width, x.data() + r * stride);
    }

    void look_back(int64_t layer, int64_t joined) {
        const int64_t width = model.width;
        keys.resize(texts.length + 1);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t row = first + r;
            const float* from = wide.data() + r * joined;
            for (int64_t t = 0; t <= texts.length; ++t) {
                const int64_t place = t < texts.length ? texts.place[row * texts.room + t] : row;
                float* here = texts.held + ((layer * texts.room + t) * texts.places + place) * 2 * width;
                if (t == texts.length) std::copy_n(from + width, 2 * width, here);
                keys[t] = here;
            }
            look(from, width, r);
        }
    }

    void look_across(int64_t layer, int64_t stride) {
        const int64_t each = 2 * model.width;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t source = texts.source[first + r];
            keys.resize(texts.source_length[source]);
            for (size_t s = 0; s < keys.size(); ++s)
                keys[s] = texts.source_held[layer] + (source * texts.source_room + s) * each;
            look(wide.data() + r * stride, model.width, r);
        }
    }

    void look(const float* query, int64_t width, int64_t r) {
        attend(query, keys, width, model.heads, width / model.heads, scores.data(),
               mixed.data() + r * filled(width));
    }
};

// e to the power of numbers up to 80, nothing below -87: 2 to the power of a whole number, and of a rest, by its series.
inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    const __m512 turns = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(turns, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // The logarithm of 2 in two parts: what is left over loses no digits.
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.0f / 5040);
    for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(sum, whole);
}

// The log-probabilities of the `wanted` likeliest tokens, best first; of equal ones the first. count: of logits, a
// multiple of 32.
struct Choice {
    int64_t wanted;
    const int64_t *forbidden, *forbidden_end;
    float* scores;
    int64_t* tokens;

    // With `rows` (V, width) logits are near the truth, and those that are chosen are computed anew from x.
    void run(const float* logits, int64_t count, const float* rows, const float* bias, const float* x, int64_t width) {
        // Sums are of what is left above a number near the largest logit: the largest of the first ones mostly is.
        float near = *std::max_element(logits, logits + std::min<int64_t>(count, 64)), largest, total;
        if (!pass(logits, count, near, largest, total)) pass(logits, count, near = largest, largest, total);
        for (int64_t i = 0; rows && i < wanted && scores[i] > kNever / 2; ++i) {
            float exact = bias[tokens[i]];
            const float* weight = rows + tokens[i] * width;
            for (int64_t j = 0; j < width; ++j) exact += weight[j] * x[j];
            total += std::exp(exact - near) - std::exp(scores[i] - near);
            int64_t at = i;
            const int64_t token = tokens[i];
            for (; at > 0 && scores[at - 1] < exact; --at) {
                scores[at] = scores[at - 1];
                tokens[at] = tokens[at - 1];
            }
            scores[at] = exact;
            tokens[at] = token;
        }
        for (int64_t i = 0; i < wanted; ++i) scores[i] -= near + std::log(total);
    }

    // False: `near` was too far from the largest, and the total is not to be trusted.
    bool pass(const float* logits, int64_t count, float near, float& largest, float& total) {
        std::fill_n(scores, wanted, kNever);
        std::fill_n(tokens, wanted, 0);
        const __m512 less = _mm512_set1_ps(near);
        __m512 most = less, sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t i = 0; i < count; i += 32)
            for (int half = 0; half < 2; ++half) {
                const __m512 some = _mm512_loadu_ps(logits + i + 16 * half);
                most = _mm512_max_ps(most, some);
                sums[half] = _mm512_add_ps(sums[half], exponential(_mm512_sub_ps(some, less)));
                const __m512 bound = _mm512_set1_ps(scores[wanted - 1]);
                for (unsigned found = _mm512_cmp_ps_mask(some, bound, _CMP_GT_OQ); found; found &= found - 1)
                    insert(i + 16 * half + __builtin_ctz(found), logits);
            }
        largest = _mm512_reduce_max_ps(most);
        total = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        return largest - near < 60;
    }

    void insert(int64_t token, const float* logits) {
        if (std::find(forbidden, forbidden_end, token) != forbidden_end) return;
        int64_t at = wanted;
        for (; at > 0 && scores[at - 1] < logits[token]; --at)
            if (at < wanted) {
                scores[at] = scores[at - 1];
                tokens[at] = tokens[at - 1];
            }
        if (at == wanted) return;
        scores[at] = logits[token];
        tokens[at] = token;
    }
};

}  // namespace

extern "C" {

// embedded: (rows, D), of the newest token of each text. Gives the log-probabilities of the `wanted` likeliest next
// tokens of each, those left out that are `forbidden`, as scores and tokens (rows, wanted); or, where `logits` is not
// null, all logits (rows, head.outputs).
void next_tokens(const Writer* model, const Texts* texts, const float* embedded, float* logits, const int64_t* forbidden,
                 int64_t forbidden_count, int64_t wanted, float* scores, int64_t* tokens, int64_t threads) {
    const int64_t each = (texts->rows + threads - 1) / threads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t thread = 0; thread < threads; ++thread) {
        const int64_t first = thread * each, rows = std::min(each, texts->rows - first);
        if (rows <= 0) continue;
        Part part{*model, *texts, first, rows, {}, {}, {}, {}, {}, {}};
        part.run(embedded);
        const int64_t outputs = model->head.outputs;
        if (logits) {
            multiply(model->head, part.x.data(), rows, logits + first * outputs);
            continue;
        }
        constexpr int64_t kTogether = 96;  // texts whose logits stay in the cache
        part.wide.resize(kTogether * outputs);
        for (int64_t begin = 0; begin < rows; begin += kTogether) {
            const int64_t some = std::min(kTogether, rows - begin);
            const float* x = part.x.data() + begin * filled(model->width);
#ifdef __AMX_BF16__
            if (model->head_parts) {
                static thread_local Tiles tiles;
                tiles.multiply(model->head, model->head_parts, x, some, part.wide.data());
            } else
#endif
                multiply(model->head, x, some, part.wide.data());
            for (int64_t r = 0; r < some; ++r) {
                const int64_t at = (first + begin + r) * wanted;
                Choice{wanted, forbidden, forbidden + forbidden_count, scores + at, tokens + at}.run(
                    part.wide.data() + r * outputs, outputs, model->head_rows, model->head.bias,
                    x + r * filled(model->width), model->width);
            }
        }
    }
}

// Whether there are matrix units, which a process must ask for.
int has_tiles() {
#ifdef __AMX_BF16__
    constexpr long kAsk = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
#else
    return 0;
#endif
}
}
