//! What ciphers leave behind on a thread: in the frames of functions that have returned, and in
//! vector registers.

/// How deep the stack is wiped. The deepest path through a cipher, measured in a debug build,
/// leaves residue within 9 KiB.
const SCRUBBED: usize = 16 << 10;

/// Wipes the stack below the caller, and the vector registers: what ciphers and key derivations
/// left there. It does not reach the caller's own frame.
#[inline(never)]
pub fn scrub_stack() {
    // First, for what comes next may save them on the stack.
    vectors::wipe();
    let mut below = [0u8; SCRUBBED];
    // As if somebody changed it: it has to lie on the stack.
    std::hint::black_box(&mut below);
}

/// Round keys stay in vector registers after the last block. They come to lie on the stack, where
/// nothing wipes them any more, when the dynamic linker saves all registers around the first call
/// of a function, as it does at the end of a thread.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod vectors {
    use std::arch::asm;

    pub(super) fn wipe() {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: this processor has what it takes.
            unsafe { wipe_avx512() };
        } else if is_x86_feature_detected!("avx") {
            // SAFETY: as above.
            unsafe { wipe_avx() };
        } else {
            wipe_sse();
        }
    }

    /// All 32 registers of 512 bits. VZEROALL knows the first 16.
    #[target_feature(enable = "avx512f")]
    fn wipe_avx512() {
        // SAFETY: it changes nothing but the registers that it names.
        unsafe {
            asm!(
                "vpxord zmm16, zmm16, zmm16", "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18", "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm20, zmm20, zmm20", "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22", "vpxord zmm23, zmm23, zmm23",
                "vpxord zmm24, zmm24, zmm24", "vpxord zmm25, zmm25, zmm25",
                "vpxord zmm26, zmm26, zmm26", "vpxord zmm27, zmm27, zmm27",
                "vpxord zmm28, zmm28, zmm28", "vpxord zmm29, zmm29, zmm29",
                "vpxord zmm30, zmm30, zmm30", "vpxord zmm31, zmm31, zmm31",
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                options(nomem, nostack, preserves_flags),
            );
            wipe_avx();
        }
    }

    /// Runs instructions that change the first 16 registers, and nothing else.
    macro_rules! change_first_16 {
        ($($instruction:literal),+) => {
            // SAFETY: it changes nothing but the registers that it names.
            unsafe {
                asm!(
                    $($instruction,)+
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        };
    }

    #[target_feature(enable = "avx")]
    fn wipe_avx() {
        change_first_16!("vzeroall");
    }

    fn wipe_sse() {
        change_first_16!(
            "pxor xmm0, xmm0",
            "pxor xmm1, xmm1",
            "pxor xmm2, xmm2",
            "pxor xmm3, xmm3",
            "pxor xmm4, xmm4",
            "pxor xmm5, xmm5",
            "pxor xmm6, xmm6",
            "pxor xmm7, xmm7",
            "pxor xmm8, xmm8",
            "pxor xmm9, xmm9",
            "pxor xmm10, xmm10",
            "pxor xmm11, xmm11",
            "pxor xmm12, xmm12",
            "pxor xmm13, xmm13",
            "pxor xmm14, xmm14",
            "pxor xmm15, xmm15"
        );
    }
}

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod vectors {
    use std::arch::asm;

    pub(super) fn wipe() {
        // SAFETY: it changes nothing but the registers that it names.
        unsafe {
            asm!(
                "movi v0.2d, #0", "movi v1.2d, #0", "movi v2.2d, #0", "movi v3.2d, #0",
                "movi v4.2d, #0", "movi v5.2d, #0", "movi v6.2d, #0", "movi v7.2d, #0",
                "movi v8.2d, #0", "movi v9.2d, #0", "movi v10.2d, #0", "movi v11.2d, #0",
                "movi v12.2d, #0", "movi v13.2d, #0", "movi v14.2d, #0", "movi v15.2d, #0",
                "movi v16.2d, #0", "movi v17.2d, #0", "movi v18.2d, #0", "movi v19.2d, #0",
                "movi v20.2d, #0", "movi v21.2d, #0", "movi v22.2d, #0", "movi v23.2d, #0",
                "movi v24.2d, #0", "movi v25.2d, #0", "movi v26.2d, #0", "movi v27.2d, #0",
                "movi v28.2d, #0", "movi v29.2d, #0", "movi v30.2d, #0", "movi v31.2d, #0",
                out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                out("v12") _, out("v13") _, out("v14") _, out("v15") _,
                out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                out("v20") _, out("v21") _, out("v22") _, out("v23") _,
                out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod vectors {
    /// How they are wiped there is not known.
    pub(super) fn wipe() {}
}

#[cfg(all(test, target_arch = "x86_64"))]
#[allow(unsafe_code)]
mod tests {
    use std::arch::asm;

    use super::*;

    /// Calls `between` with a mark in four registers, and answers what is in them afterwards.
    #[inline(never)]
    fn marked(between: fn()) -> [u128; 4] {
        let mark = [0x5au8; 16];
        let mut after = [[0u8; 16]; 4];
        // SAFETY: it reads 16 bytes, and names the registers that it changes.
        unsafe {
            asm!(
                "movdqu xmm12, [{0}]", "movdqu xmm13, [{0}]", "movdqu xmm14, [{0}]",
                "movdqu xmm15, [{0}]",
                in(reg) mark.as_ptr(),
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
        between();
        // SAFETY: it writes 64 bytes that are there.
        unsafe {
            asm!(
                "movdqu [{0}], xmm12", "movdqu [{0} + 16], xmm13", "movdqu [{0} + 32], xmm14",
                "movdqu [{0} + 48], xmm15",
                in(reg) after.as_mut_ptr(),
            );
        }
        after.map(u128::from_ne_bytes)
    }

    /// A thread that had made a data key left the end of its schedule on its stack: registers had
    /// kept it, and the dynamic linker saved them there when the thread ended.
    #[test]
    fn nothing_stays_in_vector_registers() {
        let mark = u128::from_ne_bytes([0x5a; 16]);
        assert!(marked(|| ()).contains(&mark), "else this test sees nothing");
        assert!(!marked(scrub_stack).contains(&mark));
    }
}
