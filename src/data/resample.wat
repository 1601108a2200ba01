;; The two passes of resample.ts with 128-bit vectors; the same integers, so the same bytes.
;; Compiled into resample-wasm.ts by test/tools/resample_wasm.js.
(module
  (memory (export "memory") 1)

  ;; Rows of RGB bytes at $src → rows of $width RGB pixels at $out. One vector holds the three channels of a pixel.
  ;; $first [width]: byte offset of an output pixel's first source pixel; $count [width]; $weights [width, taps].
  ;; Reads one byte beyond the last source pixel and writes one beyond each output row.
  (func (export "horizontal")
    (param $src i32) (param $srcStride i32) (param $rows i32)
    (param $first i32) (param $count i32) (param $weights i32) (param $taps i32)
    (param $width i32) (param $out i32) (param $outStride i32)
    (local $x i32) (local $to i32) (local $from i32) (local $w i32) (local $end i32) (local $sum v128)
    (loop $row
      (local.set $x (i32.const 0))
      (local.set $to (local.get $out))
      (loop $pixel
        (local.set $from (i32.add (local.get $src)
          (i32.load (i32.add (local.get $first) (i32.shl (local.get $x) (i32.const 2))))))
        (local.set $w (i32.add (local.get $weights)
          (i32.shl (i32.mul (local.get $x) (local.get $taps)) (i32.const 2))))
        (local.set $end (i32.add (local.get $w)
          (i32.shl (i32.load (i32.add (local.get $count) (i32.shl (local.get $x) (i32.const 2)))) (i32.const 2))))
        ;; One half, in 22-bit fixed point.
        (local.set $sum (i32x4.splat (i32.const 2097152)))
        (loop $tap
          (local.set $sum (i32x4.add (local.get $sum)
            (i32x4.mul
              (i32x4.extend_low_i16x8_u (i16x8.extend_low_i8x16_u (v128.load32_zero (local.get $from))))
              (v128.load32_splat (local.get $w)))))
          (local.set $from (i32.add (local.get $from) (i32.const 3)))
          (local.set $w (i32.add (local.get $w) (i32.const 4)))
          (br_if $tap (i32.lt_u (local.get $w) (local.get $end))))
        (local.set $sum (i32x4.shr_s (local.get $sum) (i32.const 22)))
        (local.set $sum (i16x8.narrow_i32x4_s (local.get $sum) (local.get $sum)))
        (v128.store32_lane 0 (local.get $to) (i8x16.narrow_i16x8_u (local.get $sum) (local.get $sum)))
        (local.set $to (i32.add (local.get $to) (i32.const 3)))
        (local.set $x (i32.add (local.get $x) (i32.const 1)))
        (br_if $pixel (i32.lt_u (local.get $x) (local.get $width))))
      (local.set $src (i32.add (local.get $src) (local.get $srcStride)))
      (local.set $out (i32.add (local.get $out) (local.get $outStride)))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
      (br_if $row (local.get $rows))))

  ;; Rows of $stride bytes (a multiple of 16) at $src → $height rows at $out, 16 bytes at a time.
  ;; $first [height]: first source row of an output row; $count [height]; $weights [height, taps].
  (func (export "vertical")
    (param $src i32) (param $stride i32) (param $first i32) (param $count i32) (param $weights i32) (param $taps i32)
    (param $height i32) (param $out i32)
    (local $y i32) (local $x i32) (local $from i32) (local $w i32) (local $end i32)
    (local $bytes v128) (local $low v128) (local $high v128) (local $weight v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (loop $row
      (local.set $x (i32.const 0))
      (local.set $end (i32.add
        (i32.add (local.get $weights) (i32.shl (i32.mul (local.get $y) (local.get $taps)) (i32.const 2)))
        (i32.shl (i32.load (i32.add (local.get $count) (i32.shl (local.get $y) (i32.const 2)))) (i32.const 2))))
      (loop $column
        (local.set $from (i32.add (i32.add (local.get $src) (local.get $x))
          (i32.mul (local.get $stride)
            (i32.load (i32.add (local.get $first) (i32.shl (local.get $y) (i32.const 2)))))))
        (local.set $w (i32.add (local.get $weights)
          (i32.shl (i32.mul (local.get $y) (local.get $taps)) (i32.const 2))))
        (local.set $a (i32x4.splat (i32.const 2097152)))
        (local.set $b (local.get $a))
        (local.set $c (local.get $a))
        (local.set $d (local.get $a))
        (loop $tap
          (local.set $weight (v128.load32_splat (local.get $w)))
          (local.set $bytes (v128.load (local.get $from)))
          (local.set $low (i16x8.extend_low_i8x16_u (local.get $bytes)))
          (local.set $high (i16x8.extend_high_i8x16_u (local.get $bytes)))
          (local.set $a (i32x4.add (local.get $a) (i32x4.mul (i32x4.extend_low_i16x8_u (local.get $low)) (local.get $weight))))
          (local.set $b (i32x4.add (local.get $b) (i32x4.mul (i32x4.extend_high_i16x8_u (local.get $low)) (local.get $weight))))
          (local.set $c (i32x4.add (local.get $c) (i32x4.mul (i32x4.extend_low_i16x8_u (local.get $high)) (local.get $weight))))
          (local.set $d (i32x4.add (local.get $d) (i32x4.mul (i32x4.extend_high_i16x8_u (local.get $high)) (local.get $weight))))
          (local.set $from (i32.add (local.get $from) (local.get $stride)))
          (local.set $w (i32.add (local.get $w) (i32.const 4)))
          (br_if $tap (i32.lt_u (local.get $w) (local.get $end))))
        (v128.store (i32.add (local.get $out) (local.get $x))
          (i8x16.narrow_i16x8_u
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (local.get $a) (i32.const 22)) (i32x4.shr_s (local.get $b) (i32.const 22)))
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (local.get $c) (i32.const 22)) (i32x4.shr_s (local.get $d) (i32.const 22)))))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (br_if $column (i32.lt_u (local.get $x) (local.get $stride))))
      (local.set $out (i32.add (local.get $out) (local.get $stride)))
      (local.set $y (i32.add (local.get $y) (i32.const 1)))
      (br_if $row (i32.lt_u (local.get $y) (local.get $height)))))

  ;; RGB rows of $stride bytes → three planes of float32, byte · $mul + $add by channel, $plane bytes apart.
  ;; Four pixels at a time: writes up to three values beyond a row.
  (func (export "normalize")
    (param $src i32) (param $stride i32) (param $width i32) (param $height i32) (param $out i32) (param $plane i32)
    (param $mulR f32) (param $mulG f32) (param $mulB f32) (param $addR f32) (param $addG f32) (param $addB f32)
    (local $x i32) (local $from i32) (local $to i32) (local $bytes v128)
    (loop $row
      (local.set $x (i32.const 0))
      (local.set $from (local.get $src))
      (local.set $to (local.get $out))
      (loop $pixels
        (local.set $bytes (v128.load (local.get $from)))
        (v128.store (local.get $to)
          (f32x4.add (f32x4.splat (local.get $addR)) (f32x4.mul (f32x4.splat (local.get $mulR))
            (f32x4.convert_i32x4_u (i8x16.swizzle (local.get $bytes)
              (v128.const i8x16 0 -1 -1 -1 3 -1 -1 -1 6 -1 -1 -1 9 -1 -1 -1))))))
        (v128.store (i32.add (local.get $to) (local.get $plane))
          (f32x4.add (f32x4.splat (local.get $addG)) (f32x4.mul (f32x4.splat (local.get $mulG))
            (f32x4.convert_i32x4_u (i8x16.swizzle (local.get $bytes)
              (v128.const i8x16 1 -1 -1 -1 4 -1 -1 -1 7 -1 -1 -1 10 -1 -1 -1))))))
        (v128.store (i32.add (local.get $to) (i32.shl (local.get $plane) (i32.const 1)))
          (f32x4.add (f32x4.splat (local.get $addB)) (f32x4.mul (f32x4.splat (local.get $mulB))
            (f32x4.convert_i32x4_u (i8x16.swizzle (local.get $bytes)
              (v128.const i8x16 2 -1 -1 -1 5 -1 -1 -1 8 -1 -1 -1 11 -1 -1 -1))))))
        (local.set $from (i32.add (local.get $from) (i32.const 12)))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))
        (local.set $x (i32.add (local.get $x) (i32.const 4)))
        (br_if $pixels (i32.lt_u (local.get $x) (local.get $width))))
      (local.set $src (i32.add (local.get $src) (local.get $stride)))
      (local.set $out (i32.add (local.get $out) (i32.shl (local.get $width) (i32.const 2))))
      (local.set $height (i32.sub (local.get $height) (i32.const 1)))
      (br_if $row (local.get $height))))
)
