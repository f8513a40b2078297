// Where samples fall: a normalised coordinate becomes a pixel coordinate, and from that come the taps along its axis. What all
// samplers share on the GPU, as sampling.py is on the CPU; the equations are in grid_sample/README.md.

enum Padding { ZEROS, BORDER, REFLECTION };

// The T pixels along an axis that a sample reads: 1 for nearest, 2 for bilinear, 4 for bicubic sampling.
template <int T>
struct Taps {
    int m[T];         // the pixel, or -1 if there is none
    number k[T];      // its weight, k(x - m)
    number slope[T];  // the derivative of the weight with respect to the normalised coordinate
};

__device__ inline number pixels_per_unit(int size, bool align_corners) {
    return number(0.5) * number(align_corners ? size - 1 : size);
}

// Rounded once, by a fused multiply-add, as on the CPU: the last bit decides on which side of a kink a sample falls.
__device__ inline number to_pixel(number position, int size, bool align_corners) {
    return fma(position + number(1), pixels_per_unit(size, align_corners), number(align_corners ? 0 : -0.5));
}

// x mirrored at the outer pixels' centres, or at their outer edges, until it is between them.
__device__ inline number reflected(number x, number& slope, int size, bool align_corners) {
    number low = number(align_corners ? 0 : -0.5);
    number period = number(2) * number(align_corners ? size - 1 : size);  // there and back again
    number distance = fabs(x - low);
    distance = fma(-trunc(distance / period), period, distance);  // what is left of it; rounded once, as on the CPU
    number back = period - distance;
    slope = (x < low) != (distance > back) ? number(-1) : number(1);
    return (distance > back ? back : distance) + low;
}

// The nearest pixel of the border. On the border itself the slope is already 0. NaN becomes pixel 0.
__device__ inline number clipped(number x, number& slope, int size) {
    number last = number(size - 1);
    if (!(x > number(0) && x < last)) slope = 0;
    x = x > number(0) ? x : number(0);
    return x < last ? x : last;
}

// A pixel coordinate moved into the image, if `padding` says so; `slope` becomes the derivative of that: 1, -1 or 0.
__device__ inline number moved(number x, number& slope, int size, int padding, bool align_corners) {
    slope = 1;
    if (padding == REFLECTION) x = reflected(x, slope, size, align_corners);
    return padding == ZEROS ? x : clipped(x, slope, size);
}

// The whole number m as the index of a pixel, or -1 outside. Compared before it is converted: 1e20 and NaN fit no int.
__device__ inline int pixel_or_none(number m, int size) {
    return m >= number(0) && m < number(size) ? int(m) : -1;
}

// Keys' cubic convolution kernel with a = -3/4 at distance d, and its derivative: two polynomials in s = |d|, for s up to
// 1, `near`, and up to 2.
__device__ inline number cubic(number d, bool near, number& slope) {
    number s = fabs(d), value;
    if (near) {  // (a + 2) s^3 - (a + 3) s^2 + 1
        value = (number(1.25) * s - number(2.25)) * s * s + number(1);
        slope = (number(3.75) * s - number(4.5)) * s;
    } else {  // a s^3 - 5 a s^2 + 8 a s - 4 a
        value = ((number(3.75) - number(0.75) * s) * s - number(6)) * s + number(3);
        slope = (number(7.5) - number(2.25) * s) * s - number(6);
    }
    if (!(d >= number(0))) slope = -slope;
    return value;
}

// The taps of a sample along an axis of `size` pixels. Nearest: a half goes to the even pixel.
__device__ inline void place(Taps<1>& taps, number position, int size, int padding, bool align_corners) {
    number slope, x = moved(to_pixel(position, size, align_corners), slope, size, padding, align_corners);
    taps.m[0] = pixel_or_none(rint(x), size);
    taps.k[0] = 1;
    taps.slope[0] = 0;
}

// Bilinear. At a whole x the cell to the right counts, and its slope.
__device__ inline void place(Taps<2>& taps, number position, int size, int padding, bool align_corners) {
    number slope, x = moved(to_pixel(position, size, align_corners), slope, size, padding, align_corners);
    number first = floor(x), t = x - first;
    slope *= pixels_per_unit(size, align_corners);
    taps.m[0] = pixel_or_none(first, size);
    taps.m[1] = pixel_or_none(first + number(1), size);
    taps.k[0] = number(1) - t;
    taps.k[1] = t;
    taps.slope[0] = -slope;
    taps.slope[1] = slope;
}

// Bicubic. The taps are moved into the image one by one; their weights still depend on the unmoved x.
__device__ inline void place(Taps<4>& taps, number position, int size, int padding, bool align_corners) {
    number x = to_pixel(position, size, align_corners), whole = floor(x), t = x - whole, ignored;
    for (int u = 0; u < 4; u++) {
        number m = moved(whole + number(u - 1), ignored, size, padding, align_corners);
        taps.m[u] = pixel_or_none(m, size);
        taps.k[u] = cubic(t - number(u - 1), u == 1 || u == 2, taps.slope[u]);
        taps.slope[u] *= pixels_per_unit(size, align_corners);
    }
}

// sum over n and m of U_nm k(x - m) k(y - n): the value with the weights `k` of the taps in both places, equation (3), and
// its slope along an axis with their `slope` in one of them. A pixel outside is 0, and NaN weights still give NaN.
template <int T>
__device__ inline number weighted_sum(
    const number* U, int W, const Taps<T>& x, const Taps<T>& y, const number (&x_weights)[T], const number (&y_weights)[T]) {
    number sum = 0;
    for (int v = 0; v < T; v++) {
        number row = 0;
        for (int u = 0; u < T; u++)
            row += x_weights[u] * (x.m[u] >= 0 && y.m[v] >= 0 ? U[index_t(y.m[v]) * W + x.m[u]] : number(0));
        sum += y_weights[v] * row;
    }
    return sum;
}

// d U_nm += g k(x - m) k(y - n), equation (6). Other samples add to the same pixels, in any order: hence atomically.
template <int T>
__device__ inline void add_weights(number* grad_U, int W, const Taps<T>& x, const Taps<T>& y, number g) {
    for (int v = 0; v < T; v++)
        for (int u = 0; u < T; u++)
            if (x.m[u] >= 0 && y.m[v] >= 0)
                atomicAdd(grad_U + index_t(y.m[v]) * W + x.m[u], g * (y.k[v] * x.k[u]));
}
