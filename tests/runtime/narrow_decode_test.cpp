// SPDX-License-Identifier: Apache-2.0
// Decode by the kernels of an ISA with narrower vectors (CoreTuning::narrow_decode_rows): which rows get it,
// and that their bits stay.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/element.h"
#include "kernels/pipelines/pipeline.h"
#include "runtime/attention.h"
#include "runtime/tuning.h"
#include "tests/support/bits.h"
#include "tests/support/random.h"
#include "tests/support/temporary_file.h"

namespace kumiko {
namespace {

using kernels::Core;
using kernels::Element;
using kernels::Isa;

TEST(NarrowDecode, IsForAFewRowsOfAdjacentKeysOnAZen4) {
  for (const Isa isa : kernels::kIsas) {
    for (const Element element : {Element::f32, Element::bf16, Element::f16}) {
      const kernels::KernelSet* const set =
          kernels::kernel_set(isa, {element, element, element, Element::f32}, Element::f32);
      if (!set) continue;
      SCOPED_TRACE(::testing::Message() << name(isa) << " " << kernels::element_name(element));
      kernels::KernelSet zen4 = *set, zen5 = *set;
      fit_kernels(core_tuning(Core::zen4, isa), {}, &zen4);
      fit_kernels(core_tuning(Core::zen5, isa), {}, &zen5);
      const kernels::DecodeKernel* const narrow = kernels::base_of(isa) == Isa::avx512
                                                      ? kernels::find_decode(Isa::avx2, element, Element::f32)
                                                      : set->decode;
      EXPECT_EQ(&zen4.decode_scores_of(4, true), narrow);
      EXPECT_EQ(&zen4.decode_values_of(4, true), element == Element::f32 ? narrow : set->decode);
      for (const auto kernel :
           {&kernels::KernelSet::decode_scores_of, &kernels::KernelSet::decode_values_of}) {
        EXPECT_EQ(&(set->*kernel)(1, true), set->decode);
        EXPECT_EQ(&(zen5.*kernel)(1, true), set->decode);
        EXPECT_EQ(&(zen4.*kernel)(5, true), set->decode);
        EXPECT_EQ(&(zen4.*kernel)(4, false), set->decode);
      }
    }
  }
}

/// Elements of a tensor: normal numbers, or some that are not.
std::vector<std::byte> elements(test::Random& random, std::int64_t count, DataType type, bool has_special) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * 4);
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = has_special && random.one_in(900) ? random.pick({INFINITY, -INFINITY, NAN, -0.0f, 1e-40f})
                                                      : random.normal();
    if (type == DataType::i8)
      reinterpret_cast<std::int8_t*>(bytes.data())[i] = static_cast<std::int8_t>(random.between(-127, 127));
    else if (type == DataType::f16)
      kernels::from_float(x, reinterpret_cast<kernels::F16*>(bytes.data()) + i);
    else if (type == DataType::bf16)
      kernels::from_float(x, reinterpret_cast<kernels::Bf16*>(bytes.data()) + i);
    else
      reinterpret_cast<float*>(bytes.data())[i] = x;
  }
  return bytes;
}

struct Types {
  DataType scores, values;
};

/// Outputs, LSE and largest scores of one query in four heads a KV head. A mask and slopes if `has_terms`.
std::vector<float> decoded(const Context& context, const Types& types, bool has_special, bool has_terms) {
  constexpr std::int64_t kHeads = 8, kKvHeads = 2, kKeys = 330, kDim = 72;
  test::Random random(13);
  const auto q = elements(random, kHeads * kDim, types.scores, false),
             k = elements(random, kKvHeads * kKeys * kDim, types.scores, has_special),
             v = elements(random, kKvHeads * kKeys * kDim, types.values, has_special);
  std::vector<std::uint8_t> mask(kKeys);
  for (std::uint8_t& seen : mask) seen = random.one_in(4) ? 0 : 1;
  std::vector<float> slopes(kHeads), q_scale(kHeads), k_scale(kKvHeads * kKeys);
  for (std::vector<float>* factors : {&slopes, &q_scale, &k_scale})
    for (float& x : *factors) x = 0.05f * random.normal();
  std::vector<float> out(kHeads * kDim), lse(kHeads), row_max(kHeads);
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, kHeads, 1, kDim, types.scores);
  args.k = ConstTensor::bhsd(k.data(), 1, kKvHeads, kKeys, kDim, types.scores);
  args.v = ConstTensor::bhsd(v.data(), 1, kKvHeads, kKeys, kDim, types.values);
  args.out = Tensor::bhsd(out.data(), 1, kHeads, 1, kDim);
  args.lse.data = lse.data();
  args.row_max.data = row_max.data();
  args.pipeline = Pipeline::decode;
  if (types.scores == DataType::i8) {
    args.q_scale = {q_scale.data(), {0, 1, 1}};
    args.k_scale = {k_scale.data(), {0, kKeys, 1}};
  }
  if (has_terms) {
    args.mask = {mask.data(), {1, kHeads, 1, kKeys}, {0, 0, 0, 1}, DataType::boolean};
    args.alibi_slopes = slopes.data();
  }
  const Status status = attention_forward(context, args);
  EXPECT_TRUE(status.ok()) << status.message();
  for (const std::vector<float>* more : {&lse, &row_max}) out.insert(out.end(), more->begin(), more->end());
  return out;
}

Context context_of(Isa isa, int narrow_decode_rows) {
  const test::TemporaryFile file("[" + std::string(name(kernels::base_of(isa))) +
                                 "]\nnarrow_decode_rows = " + std::to_string(narrow_decode_rows) + "\n");
  ContextOptions options;
  options.executor = "serial";
  options.isa = name(isa);
  options.tuning = file.path();
  Context context;
  EXPECT_TRUE(Context::create(options, &context).ok());
  return context;
}

/// What explain() says of a decode with keys in a page of 16: the part on narrower kernels, if any.
std::string narrow_part(const Context& context, const Types& types, KeyLayout layout) {
  constexpr std::int64_t kDim = 8, kKeys = 16;
  const float factor = 1;
  const std::int32_t table = 0, keys = kKeys;
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 1, 1, 1, kDim, types.scores);
  args.k = ConstTensor::bhsd(nullptr, 1, 1, kKeys, kDim, types.scores);
  args.v = ConstTensor::bhsd(nullptr, 1, 1, kKeys, kDim, types.values);
  args.out = Tensor::bhsd(nullptr, 1, 1, 1, kDim);
  args.block_table = &table, args.max_pages = 1, args.seqused_k = &keys;
  args.key_layout = layout;
  if (types.scores == DataType::i8) args.q_scale.data = args.k_scale.data = &factor;
  Plan planned;
  const Status status = plan(context, args, &planned);
  EXPECT_TRUE(status.ok()) << status.message();
  const std::string text = planned.explain(), last = " rows of adjacent keys by ";
  const std::size_t middle = text.find(last);
  if (middle == std::string::npos) return "";
  const std::size_t begin = text.rfind("a task, ", middle) + 8;
  return text.substr(begin, text.find(',', middle) - begin);
}

TEST(NarrowDecode, IsExplainedWhereItServes) {
  const struct {
    Types types;
    KeyLayout layout;
    const char* part;
  } kCases[] = {
      {{DataType::f32, DataType::f32},
       KeyLayout::rows,
       "scores and values of up to 64 rows of adjacent keys by decode_f32_avx2"},
      {{DataType::f16, DataType::f16},
       KeyLayout::rows,
       "scores of up to 64 rows of adjacent keys by decode_f16_avx2"},
      {{DataType::f32, DataType::f32},
       KeyLayout::tiles_of_16,
       "values of up to 64 rows of adjacent keys by decode_f32_avx2"},
      {{DataType::f16, DataType::f16}, KeyLayout::tiles_of_16, ""},
      {{DataType::i8, DataType::f32},
       KeyLayout::rows,
       "values of up to 64 rows of adjacent keys by decode_f32_avx2"},
      {{DataType::i8, DataType::f16}, KeyLayout::rows, ""},
  };
  for (const Isa isa : kernels::kIsas) {
    if (!(kernels::host_isas() & bit(isa)) || !kernels::find_softmax(isa)) continue;
    SCOPED_TRACE(name(isa));
    const Context wide = context_of(isa, 0), narrow = context_of(isa, 64);
    for (const auto& [types, layout, part] : kCases) {
      EXPECT_EQ(narrow_part(narrow, types, layout), kernels::base_of(isa) == Isa::avx512 ? part : "");
      EXPECT_EQ(narrow_part(wide, types, layout), "");
    }
  }
}

TEST(NarrowDecode, HasTheSameBits) {
  for (const Isa isa : kernels::kIsas) {
    if (!(kernels::host_isas() & bit(isa)) || !kernels::find_softmax(isa)) continue;
    const Context wide = context_of(isa, 0), narrow = context_of(isa, 64);
    for (const Types& types : {Types{DataType::f32, DataType::f32},
                               {DataType::bf16, DataType::bf16},
                               {DataType::f16, DataType::f16},
                               {DataType::i8, DataType::f32},
                               {DataType::i8, DataType::f16}}) {
      for (const bool has_special : {false, true}) {
        for (const bool has_terms : {false, true}) {
          EXPECT_TRUE(test::same_bits(decoded(narrow, types, has_special, has_terms),
                                      decoded(wide, types, has_special, has_terms)))
              << name(isa) << " " << static_cast<int>(types.scores) << " " << static_cast<int>(types.values)
              << " " << has_special << has_terms;
        }
      }
    }
  }
}

}  // namespace
}  // namespace kumiko
