// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/shapes.h"

#include <limits>

#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr std::int64_t kQueryLengths[] = {1, 2, 3, 5, 17, 47, 48, 49, 64, 100, 129, 200, 500};
constexpr std::int64_t kKeyLengths[] = {0,   1,   2,   7,   8,   9,   15,  16,  17,   63,
                                        255, 256, 257, 300, 511, 512, 513, 700, 1025, 1537};
constexpr std::int64_t kHeadDims[] = {1,  2,  3,  7,   8,   16,  31,  32,  40, 64,
                                      72, 80, 96, 112, 128, 192, 256, 512, 576};
constexpr Layout kFreeLayouts[] = {Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded,
                                   Layout::padded_bshd};
constexpr Layout kInputLayouts[] = {Layout::bhsd,           Layout::bshd,        Layout::sbhd,
                                    Layout::padded,         Layout::padded_bshd, Layout::expanded_heads,
                                    Layout::expanded_batch, Layout::expanded_seq};
constexpr GuardedLse::Layout kLseLayouts[] = {GuardedLse::Layout::none, GuardedLse::Layout::contiguous,
                                              GuardedLse::Layout::defaulted, GuardedLse::Layout::bsh,
                                              GuardedLse::Layout::padded};

}  // namespace

std::vector<Case> length_pairs() {
  std::vector<Case> cases;
  int kind = 0;
  for (const std::int64_t q_len : kQueryLengths) {
    for (const std::int64_t kv_len : kKeyLengths) {
      Case c;
      c.seed = 1000 + cases.size();
      c.q_len = q_len;
      c.kv_len = kv_len;
      c.q_heads = q_len < 64 ? 3 : 1;
      c.head_dim = 8 + 4 * (kind % 2);
      c.v_head_dim = 8 + 3 * (kind % 3);
      c.out_layout = kFreeLayouts[kind % 5];
      c.lse = kLseLayouts[kind % 5];
      // 7 is coprime to the number of kinds: neighbours in either list get different masks.
      cases.push_back(masked(c, (kind += 7) % kMaskKinds));
    }
  }
  return cases;
}

std::vector<Case> head_dim_pairs() {
  std::vector<Case> cases;
  int kind = 0;
  for (const std::int64_t head_dim : kHeadDims) {
    for (const std::int64_t v_head_dim : kHeadDims) {
      Case c;
      c.seed = 2000 + cases.size();
      c.q_len = kind % 3 == 0 ? 1 : kind % 3 == 1 ? 4 : 49;
      c.kv_len = kind % 2 == 0 ? 65 : 33;
      c.head_dim = head_dim;
      c.v_head_dim = v_head_dim;
      c.k_layout = kFreeLayouts[kind % 5];
      c.v_layout = kFreeLayouts[kind / 5 % 5];
      cases.push_back(masked(c, (kind += 7) % kMaskKinds));
    }
  }
  return cases;
}

std::vector<Case> head_groups() {
  std::vector<Case> cases;
  for (std::int64_t group = 1; group <= 16; ++group) {
    for (const std::int64_t q_len : {1, 3, 17}) {
      Case c;
      c.seed = 3000 + cases.size();
      Random random(c.seed);
      c.batch = random.between(1, 4);
      c.kv_heads = random.between(1, 3);
      c.q_heads = c.kv_heads * group;
      c.q_len = q_len;
      c.kv_len = random.pick<std::int64_t>({40, 129, 270});
      c.head_dim = random.pick<std::int64_t>({16, 20, 32});
      c.v_head_dim = random.pick<std::int64_t>({16, 20, 24});
      c.q_layout = c.out_layout = random.pick({Layout::bhsd, Layout::bshd});
      c.k_layout = c.v_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded_bshd});
      c.lse = random.pick({GuardedLse::Layout::contiguous, GuardedLse::Layout::bsh});
      cases.push_back(masked(c, static_cast<int>(random.between(0, kMaskKinds - 1))));
    }
  }
  return cases;
}

std::vector<Case> layouts() {
  std::vector<Case> cases;
  for (const Layout input : kInputLayouts) {
    for (const Layout output : kFreeLayouts) {
      for (const GuardedLse::Layout lse : kLseLayouts) {
        Case c;
        c.seed = 4000 + cases.size();
        Random random(c.seed);
        c.batch = 2;
        c.kv_heads = 2;
        c.q_heads = 4;
        c.q_len = random.pick<std::int64_t>({1, 6, 50});
        c.kv_len = random.pick<std::int64_t>({5, 70});
        c.head_dim = random.between(1, 20);
        c.v_head_dim = random.between(1, 20);
        // One operand at a time has the layout under test, the others any.
        c.q_layout = random.one_in(2) ? input : random.pick({Layout::padded, Layout::bshd});
        c.k_layout = random.one_in(2) ? input : random.pick({Layout::padded, Layout::bshd});
        c.v_layout = input;
        c.out_layout = output;
        c.lse = lse;
        c.is_causal = random.one_in(2);
        cases.push_back(c);
      }
    }
  }
  return cases;
}

std::vector<Case> long_sequences() {
  std::vector<Case> cases;
  const struct {
    std::int64_t q_len, kv_len, head_dim, v_head_dim, q_heads, kv_heads;
    bool causal;
  } rows[] = {
      // The first one is always taken, even if few are.
      {100, 700, 192, 128, 1, 1, true}, {500, 500, 128, 128, 1, 1, true}, {257, 1025, 32, 32, 4, 2, true},
      {1, 1537, 128, 128, 8, 2, true},  {4, 1300, 64, 80, 6, 2, true},    {200, 1537, 64, 64, 2, 1, false},
      {500, 300, 40, 40, 1, 1, true},   {47, 1025, 96, 96, 3, 1, false},  {1, 1025, 576, 512, 16, 1, true}};
  for (const auto& r : rows) {
    Case c;
    c.seed = 5000 + cases.size();
    c.q_len = r.q_len;
    c.kv_len = r.kv_len;
    c.head_dim = r.head_dim;
    c.v_head_dim = r.v_head_dim;
    c.q_heads = r.q_heads;
    c.kv_heads = r.kv_heads;
    c.is_causal = r.causal;
    c.q_layout = c.k_layout = c.v_layout = c.out_layout = Layout::bshd;
    cases.push_back(c);
  }
  return cases;
}

std::vector<Case> extreme_masks() {
  std::vector<Case> cases;
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  Case base;
  base.batch = 4;
  base.q_heads = 2;
  base.q_len = 20;
  base.kv_len = 40;
  for (const CausalAlignment alignment : {CausalAlignment::bottom_right, CausalAlignment::top_left}) {
    for (const bool causal : {false, true}) {
      for (const std::int64_t left :
           {std::int64_t{-1}, std::int64_t{0}, std::int64_t{39}, std::int64_t{1} << 40, kMax - 1, kMax}) {
        for (const std::int64_t right : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1} << 31, kMax}) {
          for (const std::vector<std::int32_t>& seqused :
               {std::vector<std::int32_t>{}, std::vector<std::int32_t>{0, 1, 39, 40}}) {
            Case c = base;
            c.seed = 6000 + cases.size();
            c.alignment = alignment;
            c.is_causal = causal;
            c.window_left = left;
            c.window_right = right;
            c.seqused = seqused;
            cases.push_back(c);
          }
        }
      }
    }
  }
  return cases;
}

std::vector<Case> score_terms() {
  std::vector<Case> cases;
  int kind = 0;
  const struct {
    std::int64_t batch, q_heads, kv_heads, q_len, kv_len;
  } shapes[] = {
      {1, 2, 1, 70, 130}, {2, 4, 2, 1, 300}, {2, 2, 2, 33, 17}, {1, 3, 1, 5, 600}, {1, 1, 1, 200, 520}};
  const DataType types[] = {DataType::f32, DataType::bf16, DataType::f16};
  // Bits: softcap, bias, ALiBi, mask.
  for (int terms = 1; terms < 16; ++terms) {
    for (const TermLayout layout : kTermLayouts) {
      if (!(terms & 10) && layout != TermLayout::full) continue;
      const auto& s = shapes[cases.size() % 5];
      Case c;
      c.seed = 7000 + cases.size();
      Random random(c.seed);
      c.batch = s.batch;
      c.q_heads = s.q_heads;
      c.kv_heads = s.kv_heads;
      c.q_len = s.q_len;
      c.kv_len = s.kv_len;
      c.head_dim = 8 + 4 * random.between(0, 3);
      c.v_head_dim = 8 + 3 * random.between(0, 3);
      if (terms & 1) c.softcap = random.pick({0.5f, 3.0f, 30.0f});
      if (terms & 2) c.bias = layout, c.bias_type = types[cases.size() / 3 % 3];
      if (terms & 4) c.alibi = static_cast<int>(random.between(1, 2));
      if (terms & 8) {
        c.mask = terms & 2 ? random.pick({TermLayout::full, TermLayout::padded, TermLayout::keys}) : layout;
        c.mask_block = random.pick<std::int64_t>({1, 3, 16, 64});
      }
      cases.push_back(masked(c, (kind += 7) % kMaskKinds));
    }
  }
  return cases;
}

std::vector<Case> combinations_of_terms() {
  const auto terms_of = [](const Case& c) {
    return (c.softcap != 0.0f ? 1 : 0) + (c.bias != TermLayout::none ? 2 : 0) + (c.alibi != 0 ? 4 : 0) +
           (c.mask != TermLayout::none ? 8 : 0);
  };
  const std::vector<Case> all = thin(score_terms(), 1, 1'200'000);
  std::vector<Case> taken;
  for (const int terms : {1, 2, 4, 8, 10, 15, 3, 5, 6, 7, 9, 11, 12, 13, 14}) {
    if (kThinning == 2 && taken.size() == 6) break;
    std::vector<Case> those;
    for (const Case& c : all)
      if (terms_of(c) == terms) those.push_back(c);
    taken.push_back(those.at(static_cast<std::size_t>(terms) % those.size()));
  }
  return taken;
}

std::vector<Case> thin(std::vector<Case> cases, std::size_t step, std::int64_t most_work) {
  if (kThinning == 2) std::erase_if(cases, [&](const Case& c) { return c.work() > most_work; });
  std::vector<Case> taken;
  for (std::size_t i = 0; i < cases.size(); i += step) taken.push_back(cases[i]);
  return taken;
}

std::vector<Case> random_cases(std::uint64_t seed, int count) {
  std::vector<Case> cases;
  Random random(seed);
  while (static_cast<int>(cases.size()) < count) {
    Case c;
    c.seed = random.bits();
    c.batch = random.between(1, 4);
    c.kv_heads = random.between(1, 4);
    c.q_heads = c.kv_heads * random.between(1, 6);
    c.q_len = random.one_in(3) ? random.between(1, 4) : random.between(1, 140);
    c.kv_len = random.one_in(4) ? random.between(500, 1600) : random.between(0, 300);
    c.head_dim = random.one_in(8) ? random.between(1, 576) : random.between(1, 80);
    c.v_head_dim = random.one_in(2) ? c.head_dim : random.between(1, 80);
    c.q_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded, Layout::padded_bshd,
                              Layout::expanded_heads});
    c.k_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded, Layout::padded_bshd,
                              Layout::expanded_batch});
    c.v_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded, Layout::padded_bshd,
                              Layout::expanded_batch});
    c.out_layout =
        random.pick({Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded, Layout::padded_bshd});
    c.lse = kLseLayouts[random.between(0, 4)];
    c.scale = random.one_in(3) ? random.pick({1.0f, 0.05f, -0.3f, 4.0f}) : 0.0f;
    c.v_magnitude = random.one_in(6) ? random.pick({1e-3f, 1e6f}) : 1.0f;
    c = masked(c, static_cast<int>(random.between(0, kMaskKinds - 1)));
    // Draws of their own leave the shapes of a seed as they are.
    Random terms(c.seed);
    c.sinks = terms.one_in(3);
    c.lse_with_sink = !terms.one_in(4);
    if (terms.one_in(4)) c.lse_base = LseBase::two;
    if (terms.one_in(3)) draw_sequence_visibility(terms, &c);
    if (c.work() <= 6'000'000) cases.push_back(c);
  }
  return cases;
}

}  // namespace kumiko::test
