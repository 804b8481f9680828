; Compiled by LLVM 22's NVPTX back end (llvmlite 0.50, cpu sm_80, opt 2) to switch.llvm-22.ptx.
target triple = "nvptx64-nvidia-cuda"
target datalayout = "e-i64:64-i128:128-v16:16-v32:32-n16:32:64"
@table = internal addrspace(4) constant [4 x float] [float 1.0, float 2.0, float 3.0, float 0.5]
@node = addrspace(1) global {i32, ptr addrspace(1), [3 x i8]} {i32 7, ptr addrspace(1) @weak, [3 x i8] c"ab\00"}
@ptrs = addrspace(1) global [2 x ptr] [ptr addrspacecast (ptr addrspace(1) @node to ptr), ptr null]
@smem = external addrspace(3) global [0 x float], align 16
@weak = weak addrspace(1) global i128 18446744073709551617
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare void @llvm.nvvm.barrier0()
define internal i32 @helper(i32 %a, {i32, i64} %s) noinline { %b = extractvalue {i32, i64} %s, 0
 %c = mul i32 %a, %b
 %p = alloca [4 x i32]
 %i = and i32 %c, 3
 %q = getelementptr [4 x i32], ptr %p, i32 0, i32 %i
 store volatile i32 %c, ptr %q
 %d = load volatile i32, ptr %p
 ret i32 %d }
define weak void @over(ptr %f) noreturn { call void %f(i32 1)
 unreachable }
define ptx_kernel void @kern(ptr addrspace(1) %out, float %x, <4 x float> %v) !dbg !6 {
 %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x(), !dbg !9
 switch i32 %t, label %d [ i32 0, label %a
  i32 1, label %b
  i32 2, label %c
  i32 3, label %e
  i32 4, label %f], !dbg !9
a: br label %d
b: call void @llvm.nvvm.barrier0(), !dbg !9
 br label %d
c: %h = call i32 @helper(i32 %t, {i32, i64} {i32 3, i64 4}), !dbg !10
 br label %d
e: br label %f
f: br label %d
d: %r = phi i32 [0, %0], [5, %a], [6, %b], [%h, %c], [%t, %f]
 %g = getelementptr float, ptr addrspace(1) %out, i32 %r
 %k = getelementptr float, ptr addrspace(4) @table, i32 %t
 %y = load float, ptr addrspace(4) %k
 %z = fadd float %x, %y
 store float %z, ptr addrspace(1) %g, !dbg !10
 store <4 x float> %v, ptr addrspace(1) %out
 ret void, !dbg !10
}
!llvm.module.flags = !{!0, !1}
!llvm.dbg.cu = !{!2}
!0 = !{i32 2, !"Debug Info Version", i32 3}
!1 = !{i32 7, !"Dwarf Version", i32 2}
!2 = distinct !DICompileUnit(language: DW_LANG_C, file: !3, producer: "test", isOptimized: true, runtimeVersion: 0, emissionKind: FullDebug)
!3 = !DIFile(filename: "k.c", directory: "/src")
!6 = distinct !DISubprogram(name: "kern", scope: !3, file: !3, line: 3, type: !7, spFlags: DISPFlagDefinition, unit: !2)
!7 = !DISubroutineType(types: !8)
!8 = !{null}
!9 = !DILocation(line: 4, column: 2, scope: !6)
!10 = !DILocation(line: 5, column: 9, scope: !6)
