//! The AES-256 key expansion (FIPS 197, section 5.2), to look for expanded keys in memory.

/// The substitution box, from its definition: the inverse in GF(2^8), then an affine map.
fn substitute(byte: u8) -> u8 {
    let times = |mut a: u8, mut b: u8| {
        let mut product = 0;
        while b != 0 {
            if b & 1 == 1 {
                product ^= a;
            }
            a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1b };
            b >>= 1;
        }
        product
    };
    let inverse = (1..=255u8).find(|i| times(*i, byte) == 1).unwrap_or(0);
    (0..5).fold(0, |sum, turn| sum ^ inverse.rotate_left(turn)) ^ 0x63
}

/// The fifteen round keys.
pub fn aes256(key: &[u8; 32]) -> Vec<[u8; 16]> {
    let mut words: Vec<[u8; 4]> = key.chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]).collect();
    let mut constant = 1u8;
    for i in 8..60 {
        let mut word = words[i - 1];
        if i % 8 == 0 {
            word.rotate_left(1);
            word = word.map(substitute);
            word[0] ^= constant;
            constant <<= 1;
        } else if i % 8 == 4 {
            word = word.map(substitute);
        }
        let before = words[i - 8];
        words.push(std::array::from_fn(|b| word[b] ^ before[b]));
    }
    let round = |w: &[[u8; 4]]| std::array::from_fn(|b| w[b / 4][b % 4]);
    words.chunks_exact(4).map(round).collect()
}

/// FIPS 197, appendix A.3: the words w56 to w59.
#[test]
fn the_expansion_is_the_standard_s() {
    let key = data_encoding::HEXLOWER
        .decode(b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
        .expect("hexadecimal");
    let key: [u8; 32] = key.try_into().expect("32 bytes");
    let last = data_encoding::HEXLOWER.encode(&aes256(&key)[14]);
    assert_eq!(last, "fe4890d1e6188d0b046df344706c631e");
}
