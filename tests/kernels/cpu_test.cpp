// SPDX-License-Identifier: Apache-2.0
// The ISAs, the host probe, and which row every lookup finds.
#include "kernels/cpu.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/append/append.h"
#include "kernels/decode/decode.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pack/pack.h"
#include "kernels/score/score.h"
#include "kernels/softmax/softmax.h"
#include "kernels/state/state.h"
#include "kernels/store/store.h"
#include "tests/support/host.h"

namespace kumiko::kernels {
namespace {

TEST(Cpu, NamesParseBack) {
  for (const Isa isa : kIsas) EXPECT_EQ(parse_isa(name(isa)), isa);
  for (const char* text : {"", "AVX2", "avx", "avx512 ", "sse2", "best"})
    EXPECT_FALSE(parse_isa(text)) << text;
}

TEST(Cpu, ProbeAgreesWithTheCompilersProbe) {
  std::vector<std::string> found;
  for (const Isa isa : kIsas)
    if (host_isas() & bit(isa)) found.emplace_back(name(isa));
  EXPECT_EQ(found, test::host_isas());
}

TEST(Cpu, BestIsaIsTheMostPreferredOfTheSet) {
  const IsaSet reference = bit(Isa::reference), avx2 = bit(Isa::avx2), avx512 = bit(Isa::avx512),
               neon = bit(Isa::neon), sve512 = bit(Isa::sve512);
  EXPECT_EQ(best_isa(reference, Core::generic), Isa::reference);
  EXPECT_EQ(best_isa(reference | avx2, Core::generic), Isa::avx2);
  EXPECT_EQ(best_isa(reference | avx512, Core::generic), Isa::avx512);
  EXPECT_EQ(best_isa(reference | avx2 | avx512, Core::generic), Isa::avx512);
  EXPECT_EQ(best_isa(reference | avx2 | avx512 | bit(Isa::avx512_bf16), Core::generic), Isa::avx512_bf16);
  // Where its products are slower than those of f32.
  EXPECT_EQ(best_isa(reference | avx2 | avx512 | bit(Isa::avx512_bf16), Core::sapphire_rapids), Isa::avx512);
  EXPECT_EQ(best_isa(reference | avx2 | avx512 | bit(Isa::avx512_bf16), Core::zen5), Isa::avx512_bf16);
  EXPECT_EQ(best_isa(reference | neon, Core::generic), Isa::neon);
  EXPECT_EQ(best_isa(reference | neon | sve512, Core::generic), Isa::sve512);
}

/// The ISAs that this build has kernels for.
#if defined(__x86_64__)
constexpr Isa kBuiltIsas[] = {Isa::avx512_bf16, Isa::avx512, Isa::avx2, Isa::reference};
#elif defined(__aarch64__)
constexpr Isa kBuiltIsas[] = {Isa::sve512, Isa::neon, Isa::reference};
#else
constexpr Isa kBuiltIsas[] = {Isa::reference};
#endif

TEST(Lookup, GemmRowsByIsaAndWidth) {
  const auto found = [](Isa isa, int nr, Element product = Element::f32) {
    const GemmKernel* row = find_gemm(isa, product, nr);
    return std::string(row != nullptr ? row->name : "none");
  };
#if defined(__x86_64__)
  EXPECT_EQ(found(Isa::avx512, 48), "gemm_f32_8x48_avx512");
  EXPECT_EQ(found(Isa::avx512, 32), "gemm_f32_8x32_avx512");
  EXPECT_EQ(found(Isa::avx512, 16), "gemm_f32_8x16_avx512");
  EXPECT_EQ(found(Isa::avx512_bf16, 48), "gemm_f32_8x48_avx512");
  EXPECT_EQ(found(Isa::avx512_bf16, 48, Element::bf16), "gemm_bf16_8x48_avx512_bf16");
  EXPECT_EQ(found(Isa::avx512, 48, Element::bf16), "none");
  EXPECT_EQ(found(Isa::avx2, 24), "gemm_f32_4x24_avx2");
  EXPECT_EQ(found(Isa::avx2, 16), "gemm_f32_4x16_avx2");
  EXPECT_EQ(found(Isa::avx2, 8), "gemm_f32_4x8_avx2");
#elif defined(__aarch64__)
  EXPECT_EQ(found(Isa::sve512, 48), "gemm_f32_8x48_sve512");
  EXPECT_EQ(found(Isa::sve512, 32), "gemm_f32_8x32_sve512");
  EXPECT_EQ(found(Isa::sve512, 16), "gemm_f32_8x16_sve512");
  EXPECT_EQ(found(Isa::neon, 12), "gemm_f32_8x12_neon");
  EXPECT_EQ(found(Isa::neon, 8), "gemm_f32_8x8_neon");
  EXPECT_EQ(found(Isa::neon, 4), "gemm_f32_8x4_neon");
#endif
  EXPECT_EQ(found(Isa::reference, 8), "gemm_f32_4x8_reference");
  EXPECT_EQ(found(Isa::avx2, 48), "none");
  EXPECT_EQ(found(Isa::avx512, 8), "none");
  EXPECT_EQ(found(Isa::neon, 48), "none");
}

template <class Row>
void expect_full_table(std::span<const Row> rows, const Row* (*find)(Isa)) {
  EXPECT_EQ(rows.back().isa, Isa::reference);
  for (const Isa isa : kIsas) {
    int count = 0;
    for (const Row& row : rows) {
      if (row.isa != isa) continue;
      ++count;
      EXPECT_EQ(find(isa), &row) << row.name;
    }
    EXPECT_LE(count, 1) << name(isa);
  }
  for (const Isa isa : kBuiltIsas) EXPECT_NE(find(isa), nullptr) << name(isa);
}

// The same for a table with a row per ISA, element type and product.
template <class Row>
void expect_full_table(std::span<const Row> rows, const Row* (*find)(Isa, Element, Element)) {
  EXPECT_EQ(rows.back().isa, Isa::reference);
  for (const Row& row : rows) EXPECT_EQ(find(row.isa, row.element, row.product), &row) << row.name;
  for (const Isa isa : kBuiltIsas) {
    for (const Element element : kElements) {
      EXPECT_NE(find(isa, element, Element::f32), nullptr) << name(isa) << " " << element_name(element);
    }
    EXPECT_EQ(find(isa, Element::f32, Element::f16), nullptr) << name(isa);
  }
}

// The same for a table with a row per ISA and element type.
template <class Row>
void expect_full_table(std::span<const Row> rows, const Row* (*find)(Isa, Element)) {
  EXPECT_EQ(rows.back().isa, Isa::reference);
  for (const Isa isa : kIsas) {
    for (const Element element : kElements) {
      int count = 0;
      for (const Row& row : rows) {
        if (row.isa != isa || row.element != element) continue;
        ++count;
        EXPECT_EQ(find(isa, element), &row) << row.name;
      }
      EXPECT_LE(count, 1) << name(isa) << " " << element_name(element);
    }
  }
  for (const Isa isa : kBuiltIsas) {
    for (const Element element : kElements)
      EXPECT_NE(find(isa, element), nullptr) << name(isa) << " " << element_name(element);
  }
}

TEST(Lookup, EveryTableEndsWithTheReferenceAndHasOneRowPerIsa) {
  EXPECT_EQ(gemm_kernels().back().isa, Isa::reference);
  expect_full_table(score_kernels(), find_score);
  EXPECT_EQ(softmax_kernels().back().isa, Isa::reference);
  for (const SoftmaxKernel& row : softmax_kernels())
    EXPECT_EQ(find_softmax(row.isa, row.product), &row) << row.name;
  for (const Isa isa : kBuiltIsas) {
    EXPECT_NE(find_softmax(isa), nullptr) << name(isa);
    for (const Element element : kElements)
      EXPECT_NE(find_softmax(isa, find_pack(isa, element)->product), nullptr) << name(isa);
  }
  const PackKernel* (*find_pack_of_product)(Isa, Element, Element) = find_pack;
  expect_full_table(pack_kernels(), find_pack_of_product);
  for (const Isa isa : kBuiltIsas) {
    for (const Element element : kElements) ASSERT_NE(find_pack(isa, element), nullptr) << name(isa);
    EXPECT_EQ(find_pack(isa, Element::f16)->product, Element::f32) << name(isa) << " multiplies f16 unasked";
  }
  expect_full_table(state_kernels(), find_state);
  expect_full_table(store_kernels(), find_store);
  expect_full_table(decode_kernels(), find_decode);
  for (const AppendKernel& row : append_kernels())
    EXPECT_EQ(find_append(row.isa, row.from, row.to), &row) << row.name;
  for (const Isa isa : kBuiltIsas) {
    for (const Element from : kElements) {
      for (const Element to : kElements) EXPECT_NE(find_append(isa, from, to), nullptr) << name(isa);
    }
  }
}

TEST(Lookup, NamesByIsa) {
#if defined(__x86_64__)
  EXPECT_STREQ(find_softmax(Isa::avx512)->name, "softmax_f32_avx512");
  EXPECT_STREQ(find_pack(Isa::avx512, Element::f32)->name, "pack_f32_avx512");
  EXPECT_STREQ(find_state(Isa::avx2)->name, "state_f32_avx2");
  EXPECT_STREQ(find_decode(Isa::avx2, Element::bf16, Element::f32)->name, "decode_bf16_avx2");
#elif defined(__aarch64__)
  EXPECT_STREQ(find_softmax(Isa::sve512)->name, "softmax_f32_sve512");
  EXPECT_STREQ(find_decode(Isa::sve512, Element::f16, Element::f32)->name, "decode_f16_sve512");
  EXPECT_STREQ(find_softmax(Isa::neon)->name, "softmax_f32_neon");
  EXPECT_STREQ(find_pack(Isa::neon, Element::f32)->name, "pack_f32_neon");
  EXPECT_STREQ(find_state(Isa::neon)->name, "state_f32_neon");
  EXPECT_STREQ(find_decode(Isa::neon, Element::bf16, Element::f32)->name, "decode_bf16_neon");
#endif
  EXPECT_STREQ(find_decode(Isa::reference, Element::f32, Element::f32)->name, "decode_f32_reference");
}

TEST(Lookup, GemmRowsOfAnIsaShareMrAndAreWholeVectorsWidestFirst) {
  for (const GemmKernel& row : gemm_kernels()) {
    const int lanes = find_softmax(row.isa, row.product)->lanes;
    EXPECT_EQ(lanes % find_state(row.isa)->lanes, 0);
    for (const Element element : kElements) {
      if (row.product != Element::f32 && row.product != element) continue;
      const PackKernel* pack = find_pack(row.isa, element, row.product);
      const DecodeKernel* decode = find_decode(row.isa, element, row.product);
      ASSERT_TRUE(pack && decode) << row.name;
      EXPECT_EQ(pack->mr, row.mr);
      EXPECT_EQ(pack->lanes, lanes);
      EXPECT_EQ(lanes % find_store(row.isa, element)->lanes, 0);
      EXPECT_EQ(decode->lanes, lanes);
      EXPECT_EQ(decode->score_keys % lanes, 0);
    }
    EXPECT_EQ(row.nr % lanes, 0) << row.name;
    for (const GemmKernel& other : gemm_kernels()) {
      if (other.isa != row.isa || other.product != row.product) continue;
      EXPECT_EQ(other.mr, row.mr) << row.name << " and " << other.name;
      if (&other > &row) {
        EXPECT_LT(other.nr, row.nr) << row.name << " and " << other.name;
      }
    }
  }
}

}  // namespace
}  // namespace kumiko::kernels
