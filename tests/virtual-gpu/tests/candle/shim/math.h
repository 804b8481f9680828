// math.h — the functions are built into NVRTC; only the macros are missing.
#pragma once
#define INFINITY __int_as_float(0x7f800000)
#define M_2_SQRTPI 1.12837916709551257390
#define M_SQRT1_2 0.70710678118654752440
