//! Keys in the form of a UUID.

/// The key with this number, in the form of a UUID. Different numbers give different keys.
///
/// Keys are made as they are needed, from registers alone, so that reading the text of a key costs
/// no cache miss that would be added to that of the lookup.
#[inline]
pub(crate) fn key(number: u64) -> [u8; 36] {
    let high = mixed(number);
    let low = mixed(high);
    let [a, b, c, d] = [high >> 32, high, low >> 32, low].map(hex);
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// The key as text.
#[inline]
pub(crate) fn as_str(key: &[u8; 36]) -> &str {
    std::str::from_utf8(key).unwrap_or_else(|_| unreachable!("hexadecimal digits and dashes"))
}

/// The lower 32 bits in hexadecimal, eight digits at a time.
#[inline]
fn hex(bits: u64) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let halves = (bits & 0xffff_0000) << 16 | (bits & 0xffff);
    let bytes = (halves & 0x0000_ff00_0000_ff00) << 8 | (halves & 0x0000_00ff_0000_00ff);
    let nibbles = (bytes & 0x00f0_00f0_00f0_00f0) << 4 | (bytes & 0x000f_000f_000f_000f);
    // 1 in each byte whose nibble is above 9: those are letters.
    let letters = (nibbles + 6 * ONES) >> 4 & ONES;
    (nibbles + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// A bijection that spreads neighbouring numbers (splitmix64).
#[inline]
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
