;; SPDX-License-Identifier: Apache-2.0
;; Whether an engine computes the relaxed instructions that the kernels use exactly; `exact` returns 1 if so.
;;
;; The engine that this catches: V8 of Node.js 20 with its flag for relaxed SIMD, on x86. Its baseline compiler, which
;; compiles every function for its first calls, takes a temporary register for the sums of products without keeping it
;; apart from the accumulator's. Where a dot product is the last use of its accumulator and of another operand, the
;; sums overwrite the accumulator, and the result is twice the sums. So each dot product below but the outermost is the
;; last use of its accumulator and of its first operand, its second, or both; `v128.and` of a local with itself is a
;; value of its own, used once. The operands also tell signed from unsigned bytes, and reach the largest sums of pairs.
(module
  (func (export "exact") (result i32) (local v128 v128 v128)
    (local.set 0 (v128.const i8x16 -128 127 -1 1  -3 -5 -7 -9  3 5 7 9  -128 -128 -128 -128)) ;; weights
    (local.set 1 (v128.const i8x16 1 2 3 127  11 13 17 127  1 2 3 4  127 127 127 127)) ;; activations
    (local.set 2 (f32x4.splat (f32.const -1.5)))
    (i32x4.all_true
      (v128.and
        (i32x4.eq
          (i32x4.relaxed_dot_i8x16_i7x16_add_s (local.get 0) (local.get 1)
            (i32x4.relaxed_dot_i8x16_i7x16_add_s (local.get 0) (v128.and (local.get 1) (local.get 1))
              (i32x4.relaxed_dot_i8x16_i7x16_add_s (v128.and (local.get 0) (local.get 0)) (local.get 1)
                (i32x4.relaxed_dot_i8x16_i7x16_add_s
                  (v128.and (local.get 0) (local.get 0)) (v128.and (local.get 1) (local.get 1))
                  (i32x4.splat (i32.const 1000))))))
          (v128.const i32x4 2000 -4440 1280 -259096)) ;; 1000 and four times 250, -1360, 70, -65024
        (v128.and
          (f32x4.eq
            (f32x4.relaxed_madd (local.get 2) (local.get 2)
              (f32x4.relaxed_madd (f32x4.splat (f32.const 2.25)) (local.get 2) (f32x4.splat (f32.const 0.5))))
            (f32x4.splat (f32.const -0.625))) ;; exact whether or not the product is rounded
          (v128.and
            (i32x4.eq
              (i32x4.relaxed_trunc_f32x4_s (v128.const f32x4 -127 -1 0 300)) ;; whole numbers that fit
              (v128.const i32x4 -127 -1 0 300))
            (i8x16.eq
              (i8x16.relaxed_laneselect (local.get 0) (local.get 1) (i8x16.gt_s (local.get 0) (local.get 1)))
              (i8x16.max_s (local.get 0) (local.get 1)))))))))
