use super::{LANES, Level, Simd, kernel};

#[inline(always)]
fn exp2_body<S: Simd>(s: S, x: &mut [f32]) {
    for x in x.as_chunks_mut().0 {
        let y = s.exp2(s.load(x));
        s.store(x, y);
    }
}
kernel!(fn exp2_of(x: &mut [f32]) = exp2_body);

#[test]
fn exp2_is_accurate_at_every_level() {
    let xs: Vec<f32> = (0..16 * 4000).map(|i| -125.0 + i as f32 * (250.0 / 64000.0)).collect();
    for level in Level::available() {
        let mut ys = xs.clone();
        exp2_of(level, &mut ys);
        for (x, y) in xs.iter().zip(&ys) {
            let want = (*x as f64).exp2();
            assert!((*y as f64 / want - 1.0).abs() < 2e-7, "{level:?}: 2^{x} = {y}");
        }
        let mut edges = [
            0.0,
            -0.0,
            -1e30,
            f32::NEG_INFINITY,
            1e30,
            f32::INFINITY,
            f32::NAN,
            -140.0,
            127.0,
            128.0,
            -126.0,
            1.0,
            -1.0,
            0.5,
            10.0,
            -149.0,
        ];
        exp2_of(level, &mut edges);
        assert_eq!(edges[..6], [1.0, 1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY], "{level:?}");
        assert!(edges[6].is_nan(), "{level:?}");
        assert_eq!(
            edges[7..],
            [
                (-140f32).exp2(),
                127f32.exp2(),
                f32::INFINITY,
                (-126f32).exp2(),
                2.0,
                0.5,
                0.5f32.exp2(),
                1024.0,
                (-149f32).exp2()
            ]
        );
    }
}

#[inline(always)]
fn lanes_body<S: Simd>(s: S, x: &[f32; LANES], out: &mut Vec<f32>) {
    let v = s.load(x);
    out.extend(s.to_array(s.select(0b1010_0000_0000_0110, v, s.splat(9.0))));
    out.extend(s.to_array(s.round(v)));
    out.extend(s.to_array(s.swap_pairs(v)));
    out.extend(s.to_array(s.max(v, s.splat(0.25))));
    out.extend(s.to_array(s.min(v, s.splat(0.25))));
    out.extend(s.to_array(s.div(s.sub(v, s.splat(1.0)), s.add(v, s.splat(40.0)))));
    for x in [0.0, -1.0, -63.75, -64.25, -130.5, -1e30] {
        out.extend(s.to_array(s.exp2_or_zero(s.splat(x))));
    }
    let kept = s.exp2_or_zero(s.splat(f32::NAN));
    out.push(f32::from(s.to_array(kept).iter().all(|x| x.is_nan())));
    let mut rows = [v; LANES];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = s.add(v, s.splat(100.0 * i as f32));
    }
    for column in s.transpose(rows) {
        out.extend(s.to_array(column));
    }
    out.push(s.sum(v));
}
kernel!(fn lanes_of(x: &[f32; LANES], out: &mut Vec<f32>) = lanes_body);

#[test]
fn levels_agree() {
    let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.0) * 1.5);
    let mut want = Vec::new();
    lanes_of(Level::Scalar, &x, &mut want);
    assert_eq!(want[..4], [9.0, -9.0, -7.5, 9.0]);
    let powers = [1.0, 0.5, (-63.75f32).exp2(), 0.0, 0.0, 0.0];
    let found: Vec<f32> = want[6 * LANES..].iter().step_by(LANES).copied().take(6).collect();
    assert!(found.iter().zip(powers).all(|(a, b)| (a - b).abs() <= 2e-7 * b), "{found:?}");
    assert_eq!(want[12 * LANES], 1.0);
    assert_eq!(want[want.len() - 1], 12.0);
    assert_eq!(want[want.len() - 257 + 16..][..3], [x[1], x[1] + 100.0, x[1] + 200.0]);
    for level in Level::available() {
        let mut got = Vec::new();
        lanes_of(level, &x, &mut got);
        assert!(
            got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()),
            "{level:?}: {got:?}"
        );
    }
}
