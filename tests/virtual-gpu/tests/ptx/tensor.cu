// Tensor cores: cp.async, ldmatrix and mma in inline assembly with scopes of its own.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void tensor(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c) {
    __shared__ __align__(16) __nv_bfloat16 tile[2][256];
    unsigned at = (unsigned)__cvta_generic_to_shared(&tile[0][threadIdx.x * 8]);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n" ::"r"(at), "l"(a + threadIdx.x * 8));
    asm volatile("cp.async.commit_group;\ncp.async.wait_group %0;\n" ::"n"(0));
    __syncwarp();
    unsigned x[4], y[2] = {((const unsigned *)b)[threadIdx.x], 0x3F803F80u};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4+16];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(at));
    float d[4] = {0, 1, 2, 3};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    for (int i = 0; i < 2; i++)
        asm volatile("{\n.reg .pred p, q;\n.reg .b32 t<2>;\nsetp.ne.b32 p|q, %1, 0;\n@!p bra SKIP;\nadd.f32 %0, %0, 0f3F800000;\nSKIP:\nmov.b32 t0, %%laneid;\n}" : "+f"(d[i]) : "r"(i));
    d[2] += __shfl_xor_sync(~0u, d[3], 2) + __ballot_sync(~0u, d[1] > 2.5f);
    __half2 h = __hfma2(__float2half2_rn(d[0]), __float2half2_rn(0.5f), __float2half2_rn(d[1]));
    __nv_bfloat162 k = __hmul2(__float2bfloat162_rn(d[2]), __float2bfloat162_rn(3.f));
    *(float4 *)(c + 4 * threadIdx.x) = make_float4(__low2float(h), __high2float(h), __low2float(k), __logf(d[3]));
}
