/* The element-wise chains of a training step in bfloat16: each reads and writes its tensors once, and computes in
   float32 between. Plain C that compilers turn into vector instructions; `native.py` builds and calls it.

   Rows are independent of each other, and what is summed over rows is summed in an order that is fixed by the caller,
   so that the number of threads changes nothing. */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t size;

#define CHUNK 4096
#define TILE 64
#define KINDS 3

static inline float wide(bf16 x) {
    union { uint32_t bits; float value; } c = {(uint32_t)x << 16};
    return c.value;
}

static inline bf16 narrow(float x) { /* to the nearest, ties to even */
    union { float value; uint32_t bits; } c = {x};
    return (bf16)((c.bits + 0x7fff + ((c.bits >> 16) & 1)) >> 16);
}

/* e^x within 2 units of the last place of float32 (Cephes' polynomial); 0 below -87. */
static inline float exponential(float x) {
    float c = x > 88.0f ? 88.0f : x; /* in this order, so that NaN stays NaN */
    c = c < -87.0f ? -87.0f : c;
    float n = rintf(c * 1.44269504f);
    float r = c - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    float y = (p * r * r + r + 1.0f) * power.value;
    return x < -87.0f ? 0.0f : y;
}

/* ---------------------------------------------------------------------- transposition */

typedef bf16 eight __attribute__((vector_size(16)));

/* Eight rows of eight become eight columns: rows i and i + 4 are interleaved, three times. */
static inline void turn(const bf16 *in, size in_stride, bf16 *out, size out_stride) {
    eight a[8], b[8];
    for (int i = 0; i < 8; i++) memcpy(&a[i], in + i * in_stride, sizeof(eight));
    for (int stage = 0; stage < 3; stage++) {
        for (int i = 0; i < 4; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        memcpy(a, b, sizeof(a));
    }
    for (int i = 0; i < 8; i++) memcpy(out + i * out_stride, &a[i], sizeof(eight));
}

/* y (columns, rows) is x (rows, columns) turned, its rows `apart` numbers apart; sums (columns) is what each column of x adds
   up to, and may be NULL. */
void turn_all(const bf16 *x, bf16 *y, bf16 *sums, size rows, size columns, size apart) {
#pragma omp parallel for schedule(static)
    for (size start = 0; start < columns; start += TILE / 2) {
        size width = columns - start < TILE / 2 ? columns - start : TILE / 2, whole = width / 8 * 8;
        float total[TILE / 2] = {0};
        for (size first = 0; first < rows; first += 8) {
            size height = rows - first < 8 ? rows - first : 8, even = height == 8 ? whole : 0;
            for (size i = first; i < first + height; i++) {
                __builtin_prefetch(x + (i + 16) * columns + start);
                for (size j = 0; j < width; j++) total[j] += wide(x[i * columns + start + j]);
            }
            for (size j = 0; j < even; j += 8)
                turn(x + first * columns + start + j, columns, y + (start + j) * apart + first, apart);
            for (size j = even; j < width; j++)
                for (size i = first; i < first + height; i++) y[(start + j) * apart + i] = x[i * columns + start + j];
        }
        if (sums)
            for (size j = 0; j < width; j++) sums[start + j] = narrow(total[j]);
    }
}

/* ---------------------------------------------------------------------- activations */

/* Value and slope of an activation; kind 0: GELU, 1: GELU with tanh, 2: SiLU. */
static void activation(int kind, double x, float *value, float *slope) {
    double share, rise; /* of x that is let through, and how that grows with x */
    if (kind == 0) {
        share = 0.5 * erfc(-x * 0.7071067811865476);
        rise = 0.3989422804014327 * exp(-0.5 * x * x);
    } else {
        double u = kind == 1 ? 1.5957691216057308 * x * (1.0 + 0.044715 * x * x) : x;
        double du = kind == 1 ? 1.5957691216057308 * (1.0 + 0.134145 * x * x) : 1.0;
        share = 1.0 / (1.0 + exp(-u));
        rise = share * (1.0 - share) * du;
    }
    *value = (float)(x * share);
    *slope = (float)(share + x * rise);
}

/* There are only 65,536 numbers in bfloat16, and those that occur lie in the nearest cache: looking a value up takes a third
   of the time of computing it. */
static float values[KINDS][1 << 16], slopes[KINDS][1 << 16];

__attribute__((constructor)) static void tabulate(void) {
    for (int kind = 0; kind < KINDS; kind++)
        for (int x = 0; x < 1 << 16; x++) activation(kind, wide((bf16)x), &values[kind][x], &slopes[kind][x]);
}

void activate(const bf16 *x, bf16 *y, size count, int kind) {
    const float *value = values[kind];
#pragma omp parallel for schedule(static)
    for (size start = 0; start < count; start += CHUNK) {
        size stop = start + CHUNK < count ? start + CHUNK : count;
        for (size i = start; i < stop; i++) y[i] = narrow(value[x[i]]);
    }
}

void activate_back(const bf16 *x, const bf16 *dy, bf16 *dx, size count, int kind) {
    const float *slope = slopes[kind];
#pragma omp parallel for schedule(static)
    for (size start = 0; start < count; start += CHUNK) {
        size stop = start + CHUNK < count ? start + CHUNK : count;
        for (size i = start; i < stop; i++) dx[i] = narrow(wide(dy[i]) * slope[x[i]]);
    }
}

/* y = activation(gate) * up; the rows of gate and up lie `stride` apart. */
void gate(const bf16 *gates, const bf16 *ups, bf16 *y, size rows, size width, size stride, int kind) {
    const float *value = values[kind];
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const bf16 *g = gates + row * stride, *u = ups + row * stride;
        bf16 *out = y + row * width;
        for (size i = 0; i < width; i++) out[i] = narrow(value[g[i]] * wide(u[i]));
    }
}

void gate_back(const bf16 *gates, const bf16 *ups, const bf16 *dy, bf16 *dgates, bf16 *dups, size rows, size width,
               size stride, int kind) {
    const float *value = values[kind], *slope = slopes[kind];
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const bf16 *g = gates + row * stride, *u = ups + row * stride, *in = dy + row * width;
        bf16 *dg = dgates + row * stride, *du = dups + row * stride;
        for (size i = 0; i < width; i++) {
            float d = wide(in[i]);
            dg[i] = narrow(d * slope[g[i]] * wide(u[i]));
            du[i] = narrow(d * value[g[i]]);
        }
    }
}

/* ---------------------------------------------------------------------- norms */

/* With a mean it is LayerNorm, without RMSNorm. stats: (rows, 2), mean and 1 / deviation. bias may be NULL. */
void norm(const bf16 *x, const bf16 *weight, const bf16 *bias, bf16 *y, float *stats, size rows, size width, float eps,
          int centred) {
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const bf16 *in = x + row * width;
        bf16 *out = y + row * width;
        float mean = 0.0f, square = 0.0f;
        if (centred) {
            for (size i = 0; i < width; i++) mean += wide(in[i]);
            mean /= (float)width;
        }
        for (size i = 0; i < width; i++) {
            float d = wide(in[i]) - mean;
            square += d * d;
        }
        float scale = 1.0f / sqrtf(square / (float)width + eps);
        stats[2 * row] = mean;
        stats[2 * row + 1] = scale;
        if (bias)
            for (size i = 0; i < width; i++)
                out[i] = narrow((wide(in[i]) - mean) * scale * wide(weight[i]) + wide(bias[i]));
        else
            for (size i = 0; i < width; i++) out[i] = narrow((wide(in[i]) - mean) * scale * wide(weight[i]));
    }
}

/* sums: (parts, 2, width), zeros: the slopes of weight and bias, of the rows of each part. past: slopes of x from where it
   goes beside the norm, or NULL. */
void norm_back(const bf16 *x, const bf16 *weight, const bf16 *dy, const bf16 *past, const float *stats, bf16 *dx,
               float *sums, size parts, size rows, size width, int centred) {
#pragma omp parallel for schedule(static)
    for (size part = 0; part < parts; part++) {
        float *dweight = sums + 2 * part * width, *dbias = dweight + width;
        for (size row = rows * part / parts; row < rows * (part + 1) / parts; row++) {
            const bf16 *in = x + row * width, *up = dy + row * width;
            bf16 *out = dx + row * width;
            float mean = stats[2 * row], scale = stats[2 * row + 1], total = 0.0f, along = 0.0f;
            for (size i = 0; i < width; i++) {
                float unit = (wide(in[i]) - mean) * scale, d = wide(up[i]), dunit = d * wide(weight[i]);
                dweight[i] += d * unit;
                dbias[i] += d;
                total += dunit;
                along += dunit * unit;
            }
            total = centred ? total / (float)width : 0.0f;
            along /= (float)width;
            float slopes[width];
            for (size i = 0; i < width; i++) {
                float unit = (wide(in[i]) - mean) * scale;
                slopes[i] = scale * (wide(up[i]) * wide(weight[i]) - total - unit * along);
            }
            if (past)
                for (size i = 0; i < width; i++) slopes[i] += wide(past[row * width + i]);
            for (size i = 0; i < width; i++) out[i] = narrow(slopes[i]);
        }
    }
}

/* ---------------------------------------------------------------------- attention */

/* A number in [0, 2^32) that follows from a seed and a place (splitmix64's finaliser). */
static inline uint32_t noise(uint64_t seed, uint64_t place) {
    uint64_t z = seed + place * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)(z >> 32);
}

/* Softmax over the keys first .. last of each row of scores (batch, heads, queries, keys), in place; 0 elsewhere.
   ranges: (batch, queries, 2), or NULL: all keys. dropped: the same with a share `rate` of it at 0, or NULL. */
void softmax(bf16 *scores, const int32_t *ranges, bf16 *dropped, size batch, size heads, size queries, size keys,
             float scale, float rate, uint64_t seed) {
    uint32_t limit = (uint32_t)(rate * 4294967296.0);
    float grow = 1.0f / (1.0f - rate);
#pragma omp parallel for schedule(static)
    for (size row = 0; row < batch * heads * queries; row++) {
        bf16 *s = scores + row * keys;
        const int32_t *range = ranges ? ranges + 2 * (row / (heads * queries) * queries + row % queries) : 0;
        size first = range ? range[0] : 0, last = range ? range[1] : keys, count = last - first;
        float top = -INFINITY, sum = 0.0f, e[count];
#pragma omp simd reduction(max : top)
        for (size i = 0; i < count; i++) {
            float x = wide(s[first + i]);
            top = x > top ? x : top;
        }
        for (size i = 0; i < count; i++) {
            e[i] = exponential((wide(s[first + i]) - top) * scale);
            sum += e[i];
        }
        sum = 1.0f / sum;
        for (size i = 0; i < count; i++) s[first + i] = narrow(e[i] * sum);
        memset(s, 0, first * sizeof(bf16));
        memset(s + last, 0, (keys - last) * sizeof(bf16));
        if (dropped) {
            bf16 *out = dropped + row * keys;
            memset(out, 0, first * sizeof(bf16));
            memset(out + last, 0, (keys - last) * sizeof(bf16));
            for (size i = 0; i < count; i++)
                out[first + i] = noise(seed, row * keys + first + i) < limit ? 0 : narrow(e[i] * sum * grow);
        }
    }
}

/* From the slopes of what `softmax` gave to those of its scores, in place. weights: before anything was dropped. */
void softmax_back(const bf16 *weights, bf16 *slopes, const int32_t *ranges, size batch, size heads, size queries,
                  size keys, float scale, float rate, uint64_t seed) {
    uint32_t limit = (uint32_t)(rate * 4294967296.0);
    float grow = 1.0f / (1.0f - rate);
#pragma omp parallel for schedule(static)
    for (size row = 0; row < batch * heads * queries; row++) {
        const bf16 *w = weights + row * keys;
        bf16 *d = slopes + row * keys;
        const int32_t *range = ranges ? ranges + 2 * (row / (heads * queries) * queries + row % queries) : 0;
        size first = range ? range[0] : 0, last = range ? range[1] : keys, count = last - first;
        float along = 0.0f, g[count];
        if (rate > 0.0f)
            for (size i = 0; i < count; i++)
                g[i] = noise(seed, row * keys + first + i) < limit ? 0.0f : grow * wide(d[first + i]);
        else
            for (size i = 0; i < count; i++) g[i] = wide(d[first + i]);
        for (size i = 0; i < count; i++) along += g[i] * wide(w[first + i]);
        for (size i = 0; i < count; i++) d[first + i] = narrow(scale * wide(w[first + i]) * (g[i] - along));
        memset(d, 0, first * sizeof(bf16));
        memset(d + last, 0, (keys - last) * sizeof(bf16));
    }
}

/* ---------------------------------------------------------------------- rotary positions */

/* Turn component i and i + half of each head by the angle of its token, forwards (sign 1) or back (sign -1). Strides are
   those of a row, a token and a head; cosines and sines: (batch, length, half), a token of either `stride` apart. */
void rotate(const bf16 *x, bf16 *y, const bf16 *cosines, const bf16 *sines, size batch, size length, size heads,
            size half, size stride, size x_row, size x_token, size x_head, size y_row, size y_token, size y_head,
            float sign) {
#pragma omp parallel for schedule(static)
    for (size token = 0; token < batch * length; token++) {
        const bf16 *c = cosines + token * stride, *s = sines + token * stride;
        for (size head = 0; head < heads; head++) {
            const bf16 *in = x + token / length * x_row + token % length * x_token + head * x_head;
            bf16 *out = y + token / length * y_row + token % length * y_token + head * y_head;
            for (size i = 0; i < half; i++) {
                float a = wide(in[i]), b = wide(in[half + i]), cosine = wide(c[i]), sine = sign * wide(s[i]);
                out[i] = narrow(a * cosine - b * sine);
                out[half + i] = narrow(b * cosine + a * sine);
            }
        }
    }
}

/* ---------------------------------------------------------------------- dropout */

/* y = x with a share `rate` at 0 and the rest grown; it is its own backward pass. */
void drop(const bf16 *x, bf16 *y, size count, float rate, uint64_t seed) {
    uint32_t limit = (uint32_t)(rate * 4294967296.0);
    float grow = 1.0f / (1.0f - rate);
#pragma omp parallel for schedule(static)
    for (size start = 0; start < count; start += CHUNK) {
        size stop = start + CHUNK < count ? start + CHUNK : count;
        for (size i = start; i < stop; i++) y[i] = noise(seed, i) < limit ? 0 : narrow(wide(x[i]) * grow);
    }
}

/* ---------------------------------------------------------------------- cross-entropy */

#define AHEAD 32
static inline void ahead(const bf16 *x) { /* fetch what TILE rows of one word take up */
    __builtin_prefetch(x);
    __builtin_prefetch(x + TILE / 2);
}

/* Cross-entropy of logits (vocabulary, rows), which become its slopes; `turned` gets the same as (rows, vocabulary), its rows
   `stride` apart.

   One word of all rows lies side by side, as both products that follow are fastest so; TILE rows are worked on at
   once. bias may be NULL. losses: (rows), of each row. uniform: (rows), numbers in [0, 1), or NULL; drawn: (rows), a word
   of each row's distribution, where its cumulated probability passes that number. */
void cross_entropy(bf16 *logits, const bf16 *bias, const int64_t *labels, bf16 *turned, float *losses,
                   const float *uniform, int64_t *drawn, size vocabulary, size rows, size stride,
                   float smoothing) {
#pragma omp parallel for schedule(static)
    for (size start = 0; start < rows; start += TILE) {
        size width = rows - start < TILE ? rows - start : TILE;
        float top[TILE], sum[TILE], total[TILE], passed[TILE] = {0}, bound[TILE] = {0};
        int32_t count[TILE] = {0};
        for (size j = 0; j < TILE; j++) top[j] = -INFINITY, sum[j] = 0.0f, total[j] = 0.0f;
        for (size first = 0; first < vocabulary; first += TILE) {
            size last = first + TILE < vocabulary ? first + TILE : vocabulary;
            float x[TILE][TILE], higher[TILE];
            memcpy(higher, top, sizeof(higher));
            for (size v = first; v < last; v++) {
                const bf16 *in = logits + v * rows + start;
                float shift = bias ? wide(bias[v]) : 0.0f, *here = x[v - first];
                ahead(in + AHEAD * rows);
                for (size j = 0; j < width; j++) {
                    here[j] = wide(in[j]) + shift;
                    total[j] += here[j];
                    higher[j] = here[j] > higher[j] ? here[j] : higher[j];
                }
            }
            for (size j = 0; j < width; j++) {
                sum[j] *= exponential(top[j] - higher[j]);
                top[j] = higher[j];
            }
            for (size v = first; v < last; v++)
                for (size j = 0; j < width; j++) sum[j] += exponential(x[v - first][j] - top[j]);
        }
        for (size j = 0; j < width; j++) {
            int64_t label = labels[start + j];
            float picked = wide(logits[label * rows + start + j]) + (bias ? wide(bias[label]) : 0.0f);
            top[j] += logf(sum[j]);
            losses[start + j] = top[j] - (1.0f - smoothing) * picked - smoothing * total[j] / (float)vocabulary;
            if (uniform) bound[j] = uniform[start + j];
        }
        if (!turned) continue;
        float even = smoothing / (float)vocabulary;
        for (size first = 0; first < vocabulary; first += TILE) {
            size last = first + TILE < vocabulary ? first + TILE : vocabulary;
            bf16 p[TILE][TILE];
            for (size v = first; v < last; v++) {
                bf16 *in = logits + v * rows + start, *here = p[v - first];
                float shift = bias ? wide(bias[v]) : 0.0f, e[TILE];
                ahead(in + AHEAD * rows);
                for (size j = 0; j < width; j++) {
                    e[j] = exponential(wide(in[j]) + shift - top[j]);
                    here[j] = narrow(e[j] - even);
                }
                if (uniform)
                    for (size j = 0; j < width; j++) {
                        passed[j] += e[j];
                        count[j] += passed[j] <= bound[j];
                    }
            }
            for (size j = 0; j < width; j++) {
                int64_t label = labels[start + j];
                if (label >= first && label < last)
                    p[label - first][j] = narrow(
                        exponential(wide(logits[label * rows + start + j]) + (bias ? wide(bias[label]) : 0.0f) - top[j]) -
                        even - (1.0f - smoothing));
            }
            for (size v = first; v < last; v++)
                memcpy(logits + v * rows + start, p[v - first], width * sizeof(bf16));
            bf16 *out = turned + start * stride + first;
            size whole_words = (last - first) / 8 * 8, whole_rows = width / 8 * 8;
            for (size j = 0; j < whole_rows; j += 8)
                for (size v = 0; v < whole_words; v += 8)
                    turn(&p[v][j], TILE, out + j * stride + v, stride);
            for (size j = 0; j < width; j++)
                for (size v = j < whole_rows ? whole_words : 0; v < last - first; v++)
                    out[j * stride + v] = p[v][j];
        }
        for (size j = 0; j < width; j++) /* products read a little of it, and multiply it by 0 */
            memset(turned + (start + j) * stride + vocabulary, 0, (stride - vocabulary) * sizeof(bf16));
        if (uniform)
            for (size j = 0; j < width; j++)
                drawn[start + j] = count[j] < vocabulary ? count[j] : vocabulary - 1;
    }
}

/* ---------------------------------------------------------------------- optimiser */

#define PART 65536

/* The squares of x, bfloat16 or float32, summed over each PART of it: sums (parts). */
void squares(const void *x, double *sums, size count, int is_narrow) {
    const bf16 *half = x;
    const float *full = x;
#pragma omp parallel for schedule(static)
    for (size part = 0; part < (count + PART - 1) / PART; part++) {
        size stop = (part + 1) * PART < count ? (part + 1) * PART : count;
        float sum = 0.0f;
        if (is_narrow)
            for (size i = part * PART; i < stop; i++) sum += wide(half[i]) * wide(half[i]);
        else
            for (size i = part * PART; i < stop; i++) sum += full[i] * full[i];
        sums[part] = sum;
    }
}

/* AdamW (Loshchilov and Hutter 2019, algorithm 2) with slopes that are multiplied by `factor`; what is new of the weights
   is written to `copy` too, in bfloat16, unless it is NULL. first, second: 1 - beta^step of both averages. */
void adamw(float *weights, const void *slopes, float *means, float *variances, bf16 *copy, size count, int is_narrow,
           float factor, float rate, float beta1, float beta2, float eps, float decay, float first, float second) {
    float keep = 1.0f - rate * decay, step = rate / first, root = 1.0f / sqrtf(second);
    const bf16 *half = slopes;
    const float *full = slopes;
#define BODY(SLOPE) \
    _Pragma("omp parallel for schedule(static)") \
    for (size start = 0; start < count; start += CHUNK) { \
        size stop = start + CHUNK < count ? start + CHUNK : count; \
        for (size i = start; i < stop; i++) { \
            float g = factor * (SLOPE); \
            means[i] += (1.0f - beta1) * (g - means[i]); \
            variances[i] = beta2 * variances[i] + (1.0f - beta2) * g * g; \
            weights[i] = keep * weights[i] - step * means[i] / (sqrtf(variances[i]) * root + eps); \
        } \
        if (copy) \
            for (size i = start; i < stop; i++) copy[i] = narrow(weights[i]); \
    }
    if (is_narrow) { BODY(wide(half[i])) } else { BODY(full[i]) }
#undef BODY
}
