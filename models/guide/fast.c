// The element-wise steps of training on a CPU, each in one pass over memory. fast.py compiles and calls this;
// model.py has the same steps in plain PyTorch. "bf16" is the upper half of a float, rounded to the nearest even.
#include <math.h>
#include <stdint.h>

typedef uint16_t bf16;

static inline float wide(bf16 v) {
  union { uint32_t u; float f; } x = {(uint32_t)v << 16};
  return x.f;
}

static inline bf16 narrow(float v) {
  union { float f; uint32_t u; } x = {v};
  return (bf16)((x.u + 0x7fff + ((x.u >> 16) & 1)) >> 16);
}

// y = silu(g) * u
void swiglu(const bf16* g, const bf16* u, bf16* y, long n) {
#pragma omp parallel for simd
  for (long i = 0; i < n; i++) {
    float a = wide(g[i]);
    y[i] = narrow(a / (1 + expf(-a)) * wide(u[i]));
  }
}

void swiglu_back(const bf16* g, const bf16* u, const bf16* dy, bf16* dg, bf16* du, long n) {
#pragma omp parallel for simd
  for (long i = 0; i < n; i++) {
    float a = wide(g[i]), d = wide(dy[i]), s = 1 / (1 + expf(-a)), silu = a * s;
    du[i] = narrow(d * silu);
    dg[i] = narrow(d * wide(u[i]) * (s + silu * (1 - s)));
  }
}

// y = w * x / rms(x) for each row of n; scale keeps 1 / rms.
void norm(const float* x, const float* w, float eps, bf16* y, float* scale, long rows, long n) {
#pragma omp parallel for
  for (long r = 0; r < rows; r++) {
    const float* p = x + r * n;
    float sum = 0;
    for (long i = 0; i < n; i++) sum += p[i] * p[i];
    float s = scale[r] = 1 / sqrtf(sum / n + eps);
    for (long i = 0; i < n; i++) y[r * n + i] = narrow(p[i] * s * w[i]);
  }
}

// dw is added to; it has to be zero at first.
void norm_back(const float* x, const float* w, const float* scale, const bf16* dy, float* dx, float* dw, long rows, long n) {
#pragma omp parallel for reduction(+ : dw[:n])
  for (long r = 0; r < rows; r++) {
    const float *p = x + r * n, s = scale[r];
    const bf16* d = dy + r * n;
    float dot = 0;
    for (long i = 0; i < n; i++) {
      float g = wide(d[i]), unit = p[i] * s;
      dw[i] += g * unit;
      dot += g * w[i] * unit;
    }
    dot /= n;
    for (long i = 0; i < n; i++) dx[r * n + i] = s * (wide(d[i]) * w[i] - p[i] * s * dot);
  }
}

// Half-split rotation of rows [heads, 2 * half] at position row % time; sign -1 undoes it.
void rotate(const bf16* x, const float* cosine, const float* sine, float sign, bf16* y, long rows, long time, long heads, long half) {
#pragma omp parallel for
  for (long r = 0; r < rows; r++) {
    const float *c = cosine + r % time * half, *s = sine + r % time * half;
    for (long h = 0; h < heads; h++) {
      const bf16* a = x + (r * heads + h) * 2 * half;
      bf16* b = y + (r * heads + h) * 2 * half;
      for (long i = 0; i < half; i++) {
        float p = wide(a[i]), q = wide(a[half + i]), t = sign * s[i];
        b[i] = narrow(p * c[i] - q * t);
        b[half + i] = narrow(q * c[i] + p * t);
      }
    }
  }
}

// Softmax over the places starts[t] .. t of each row of scores [batch, repeat, time, time]; elsewhere 0.
void softmax(const bf16* x, const int32_t* starts, bf16* y, long batch, long repeat, long time) {
#pragma omp parallel for
  for (long r = 0; r < batch * repeat * time; r++) {
    long t = r % time, begin = starts[r / (repeat * time) * time + t];
    const bf16* p = x + r * time;
    bf16* q = y + r * time;
    float top = -1e30f, sum = 0, e[t + 1];
    for (long i = begin; i <= t; i++) top = fmaxf(top, wide(p[i]));
    for (long i = begin; i <= t; i++) sum += e[i] = expf(wide(p[i]) - top);
    for (long i = 0; i < begin; i++) q[i] = 0;
    for (long i = begin; i <= t; i++) q[i] = narrow(e[i] / sum);
    for (long i = t + 1; i < time; i++) q[i] = 0;
  }
}

void softmax_back(const bf16* y, const bf16* dy, const int32_t* starts, bf16* dx, long batch, long repeat, long time) {
#pragma omp parallel for
  for (long r = 0; r < batch * repeat * time; r++) {
    long t = r % time, begin = starts[r / (repeat * time) * time + t];
    const bf16 *p = y + r * time, *d = dy + r * time;
    bf16* q = dx + r * time;
    float dot = 0;
    for (long i = begin; i <= t; i++) dot += wide(p[i]) * wide(d[i]);
    for (long i = 0; i < begin; i++) q[i] = 0;
    for (long i = begin; i <= t; i++) q[i] = narrow(wide(p[i]) * (wide(d[i]) - dot));
    for (long i = t + 1; i < time; i++) q[i] = 0;
  }
}

// Cross-entropy of each row of n logits: the loss, and in dx its gradient.
void cross_entropy(const bf16* x, const int64_t* target, float* loss, bf16* dx, long rows, long n) {
#pragma omp parallel for
  for (long r = 0; r < rows; r++) {
    const bf16* p = x + r * n;
    float top = -1e30f, sum = 0, e[n];
    for (long i = 0; i < n; i++) top = fmaxf(top, wide(p[i]));
    for (long i = 0; i < n; i++) sum += e[i] = expf(wide(p[i]) - top);
    loss[r] = logf(sum) + top - wide(p[target[r]]);
    for (long i = 0; i < n; i++) dx[r * n + i] = narrow(e[i] / sum);
    dx[r * n + target[r]] = narrow(e[target[r]] / sum - 1);
  }
}
