// cuda/std/limits — numeric_limits of the integers that a reduction starts from.
#pragma once
namespace cuda {
namespace std {
template <typename T> struct numeric_limits;
template <> struct numeric_limits<long long> {
    static constexpr __device__ long long lowest() { return -0x7fffffffffffffffLL - 1; }
    static constexpr __device__ long long max() { return 0x7fffffffffffffffLL; }
};
template <> struct numeric_limits<unsigned int> {
    static constexpr __device__ unsigned int lowest() { return 0; }
    static constexpr __device__ unsigned int max() { return 0xffffffffu; }
};
template <> struct numeric_limits<unsigned char> {
    static constexpr __device__ unsigned char lowest() { return 0; }
    static constexpr __device__ unsigned char max() { return 0xff; }
};
}  // namespace std
}  // namespace cuda
