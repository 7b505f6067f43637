// SPDX-License-Identifier: Apache-2.0
// The tuning table, the files that replace it, and that no number in either changes a bit of a result.
#include "runtime/core_tuning.h"

#include <gtest/gtest.h>
#include <kumiko/attention.h>
#include <kumiko/kv_append.h>

#include <memory>
#include <numeric>
#include <set>

#include "kernels/gemm/gemm.h"
#include "kernels/pipelines/pipeline.h"
#include "kernels/softmax/softmax.h"
#include "runtime/tuning.h"
#include "tests/support/bits.h"
#include "tests/support/random.h"
#include "tests/support/temporary_file.h"

namespace kumiko {
namespace {

using kernels::Core;
using kernels::Isa;
using test::TemporaryFile;

TEST(CoreTuning, EveryCoreAndIsaHasNumbersWithinTheirRange) {
  for (const Core core : kernels::kCores) {
    for (const Isa isa : kernels::kIsas) {
      const CoreTuning tuning = core_tuning(core, isa);
      for (const TuningField& field : kTuningFields) {
        EXPECT_GE(tuning.*field.value, field.least) << name(core) << " " << name(isa) << " " << field.name;
        EXPECT_LE(tuning.*field.value, field.most) << name(core) << " " << name(isa) << " " << field.name;
      }
      EXPECT_GE(tuning.values_ahead, tuning.keys_ahead) << name(core) << " " << name(isa);
      EXPECT_FALSE(tuning.source.empty());
    }
  }
}

TEST(CoreTuning, ACoreTakesItsOwnRowOrTheGenericOne) {
  EXPECT_EQ(core_tuning(Core::zen5, Isa::avx512).source, "zen5 (measured)");
  EXPECT_EQ(core_tuning(Core::zen5, Isa::avx512_bf16).source, "zen5 (measured)");
  EXPECT_EQ(core_tuning(Core::zen3, Isa::avx2).values_ahead, 12288);
  EXPECT_EQ(core_tuning(Core::zen3, Isa::avx512).source, "generic (not measured)");
  EXPECT_EQ(core_tuning(Core::apple, Isa::reference).source, "generic (not measured)");
}

TEST(CoreTuning, AFileChangesWhatItNamesForItsIsa) {
  const TemporaryFile file(
      "# a comment\n"
      "[avx512]\n"
      "decode_rows = 4\t# another\r\n"
      "\n"
      "  keys_ahead=0\n"
      "[avx2]\n"
      "decode_rows = 12");
  CoreTuning tuning = core_tuning(Core::zen5, Isa::avx512), before = tuning;
  std::string why;
  ASSERT_TRUE(read_tuning(file.path(), Isa::avx512_bf16, &tuning, &why)) << why;
  EXPECT_EQ(tuning.decode_rows, 4);
  EXPECT_EQ(tuning.keys_ahead, 0);
  EXPECT_EQ(tuning.values_ahead, before.values_ahead);
  EXPECT_EQ(tuning.source, file.path());
  ASSERT_TRUE(read_tuning(file.path(), Isa::avx2, &before, &why)) << why;
  EXPECT_EQ(before.decode_rows, 12);
}

TEST(CoreTuning, AWrongLineIsNamedAndChangesNothing) {
  const std::pair<const char*, const char*> rows[] = {
      {"decode_rows = 4", "line 1 is \"decode_rows = 4\"; expected [isa] before it"},
      {"[avx2]\n\ndecode_rows 4", "line 3 is \"decode_rows 4\"; expected [isa] or name = number"},
      {"[avx2]\nrows = 4", "line 2 is \"rows = 4\"; expected one of decode_rows | "},
      {"[avx2]\ndecode_rows = 65", "line 2 is \"decode_rows = 65\"; expected 0..64"},
      {"[avx2]\ndecode_rows = -1", "expected 0..64"},
      {"[avx2]\ndecode_rows = 4x", "expected 0..64"},
      {"[avx2]\ndecode_rows =", "expected 0..64"},
      {"[avx2]\nkeys_ahead = 99999999999999999999", "expected 0..1048576"},
      {"[avx3]\n", "line 1 is \"[avx3]\"; expected the name of an instruction set"},
      {"[avx2\n", "line 1 is \"[avx2\"; expected the name of an instruction set"},
      {"[avx512_bf16]\ndecode_rows = 4", "line 1 is \"[avx512_bf16]\"; expected [avx512], which it uses"},
      {"[neon]\ntask_tiles = 3", "expected 4..256"},  // of an ISA other than the requested one
  };
  for (const auto& [content, want] : rows) {
    const TemporaryFile file(content);
    CoreTuning tuning = core_tuning(Core::generic, Isa::avx2);
    std::string why;
    EXPECT_FALSE(read_tuning(file.path(), Isa::avx2, &tuning, &why)) << content;
    EXPECT_NE(why.find(want), std::string::npos) << why;
    EXPECT_EQ(tuning.source, "generic (not measured)");
    EXPECT_EQ(tuning.decode_rows, 8);
  }
  CoreTuning tuning = core_tuning(Core::generic, Isa::avx2);
  std::string why;
  EXPECT_FALSE(read_tuning("/nowhere/tuning", Isa::avx2, &tuning, &why));
  EXPECT_EQ(why, "it cannot be read");
  EXPECT_FALSE(read_tuning("/", Isa::avx2, &tuning, &why));
  EXPECT_EQ(why, "it cannot be read");
  EXPECT_FALSE(read_tuning("/dev/zero", Isa::avx2, &tuning, &why));
  EXPECT_EQ(why, "it has more than 64 KiB");
}

TEST(CoreTuning, ContextAndPlanSayWhichIsInUse) {
  const TemporaryFile file("[reference]\ndecode_rows = 0\n");
  ContextOptions options;
  options.executor = "serial";
  options.isa = "reference";
  Context plain, tuned;
  ASSERT_TRUE(Context::create(options, &plain).ok());
  options.tuning = file.path();
  ASSERT_TRUE(Context::create(options, &tuned).ok());
  EXPECT_NE(plain.describe().find("tuning generic (not measured)\n"), std::string::npos) << plain.describe();
  EXPECT_NE(tuned.describe().find("tuning " + file.path() + "\n"), std::string::npos) << tuned.describe();
  AttentionArgs args;
  args.q = args.k = args.v = ConstTensor::bhsd(nullptr, 1, 1, 1, 8);
  args.out = Tensor::bhsd(nullptr, 1, 1, 1, 8);
  for (const auto& [context, pipeline] :
       {std::pair{&plain, "pipeline: decode"}, std::pair{&tuned, "pipeline: online"}}) {
    Plan planned;
    ASSERT_TRUE(plan(*context, args, &planned).ok());
    EXPECT_NE(planned.explain().find(pipeline), std::string::npos) << planned.explain();
    EXPECT_NE(planned.explain().find(", tuning "), std::string::npos) << planned.explain();
  }
  EXPECT_NE(tuned.describe(), plain.describe());
}

TEST(CoreTuning, AFileThatIsWrongIsAnErrorOfTheContext) {
  const TemporaryFile file("[avx2]\ntask_tiles = 1\n");
  ContextOptions options;
  options.executor = "serial";
  options.tuning = file.path();
  Context context;
  const Status status = Context::create(options, &context);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(),
            "tuning is \"" + file.path() +
                "\"; expected a file of kumiko-tune (line 2 is \"task_tiles = 1\"; expected 4..256)");
  EXPECT_FALSE(context);
}

/// A cache to whose end [tokens, heads, dim] keys were appended, rotated; the values are the keys, too. It
/// begins with a line, so rows of whole lines may be stored past the CPU's caches.
std::vector<float> appended_keys(const Context& context, const float* keys, std::int64_t heads,
                                 std::int64_t tokens, std::int64_t dim) {
  constexpr std::size_t kLine = 64;
  std::vector<float> memory(static_cast<std::size_t>(2 * tokens * heads * dim) + kLine / sizeof(float));
  void* begin = memory.data();
  std::size_t bytes = memory.size() * sizeof(float);
  auto* const cache = static_cast<float*>(std::align(kLine, bytes - kLine, begin, bytes));
  std::vector<std::int64_t> slots(static_cast<std::size_t>(tokens));
  std::iota(slots.rbegin(), slots.rend(), std::int64_t{0});  // no token lies behind the one before it
  KvAppendArgs args;
  args.key = args.value = ConstTensor::bshd(keys, 1, tokens, heads, dim);
  args.key_cache = Tensor::bshd(cache, 1, tokens, heads, dim);
  args.value_cache = Tensor::bshd(cache + tokens * heads * dim, 1, tokens, heads, dim);
  args.slot_mapping = args.positions = slots.data();
  args.rotary_dim = dim;
  EXPECT_TRUE(kv_append(context, args).ok());
  return {cache, cache + 2 * tokens * heads * dim};
}

/// Prefill with a window and decode of two lengths, in every pipeline that can. If few cases are taken, of
/// fewer heads and rows, but still of more than one task where task_tiles is 4 (192 rows for AVX-512 and
/// SVE); under an emulator prefill in three of the pipelines, since `automatic` is one of the others.
std::vector<float> outputs(const Context& context) {
  const std::int64_t kv_heads = test::thinned<std::int64_t>(2, 1, 1), heads = 2 * kv_heads;
  const std::int64_t kKeys = 700, kDim = test::thinned<std::int64_t>(40, 20, 20);
  test::Random random(7);
  std::vector<float> data(static_cast<std::size_t>(heads * kKeys * kDim) * 3);
  for (float& x : data) x = random.normal();
  const float* const q = data.data();
  const float *const k = q + heads * kKeys * kDim, *const v = k + kv_heads * kKeys * kDim;
  std::vector<float> all;
  for (const std::int64_t queries :
       {std::int64_t{1}, std::int64_t{5}, test::thinned<std::int64_t>(300, 200, 200)}) {
    for (const Pipeline pipeline : {Pipeline::automatic, Pipeline::online, Pipeline::decode,
                                    Pipeline::two_pass, Pipeline::interleaved, Pipeline::three_pass}) {
      if (test::kEmulated && queries > 5 && pipeline != Pipeline::automatic && pipeline != Pipeline::decode &&
          pipeline != Pipeline::interleaved)
        continue;
      AttentionArgs args;
      std::vector<float> out(static_cast<std::size_t>(heads * queries * kDim));
      args.q = ConstTensor::bhsd(q, 1, heads, queries, kDim);
      args.k = ConstTensor::bhsd(k, 1, kv_heads, kKeys, kDim);
      args.v = ConstTensor::bhsd(v, 1, kv_heads, kKeys, kDim);
      args.out = Tensor::bhsd(out.data(), 1, heads, queries, kDim);
      args.is_causal = true;
      args.window_left = 200;
      args.pipeline = pipeline;
      EXPECT_TRUE(attention_forward(context, args).ok());
      all.insert(all.end(), out.begin(), out.end());
    }
  }
  for (const std::int64_t dim : {kDim, std::int64_t{32}}) {
    const std::vector<float> appended = appended_keys(context, k, kv_heads, kKeys, dim);
    all.insert(all.end(), appended.begin(), appended.end());
  }
  return all;
}

// Under an emulator the best ISA takes all values, the others the smallest.
TEST(CoreTuning, NoNumberChangesABit) {
  const Isa best = kernels::best_isa(kernels::host_isas(), kernels::host_core());
  for (const Isa isa : kernels::kIsas) {
    if (!(kernels::host_isas() & bit(isa)) || !kernels::find_softmax(isa)) continue;
    if (test::kThinned && isa == Isa::reference && kernels::host_isas() != bit(isa))
      continue;  // has run natively
    ContextOptions options;
    options.executor = "serial";
    options.isa = name(isa);
    Context plain;
    ASSERT_TRUE(Context::create(options, &plain).ok());
    const std::vector<float> want = outputs(plain);
    for (const TuningField& field : kTuningFields) {
      for (const std::int64_t value : {field.least, field.least + 1, field.most}) {
        if (test::kEmulated && isa != best && value != field.least) continue;
        const TemporaryFile file("[" + std::string(name(kernels::base_of(isa))) + "]\n" + field.name + " = " +
                                 std::to_string(value) + "\n");
        options.tuning = file.path();
        Context tuned;
        ASSERT_TRUE(Context::create(options, &tuned).ok());
        EXPECT_TRUE(test::same_bits(outputs(tuned), want)) << name(isa) << " " << field.name << " " << value;
      }
    }
  }
}

/// Of one head, with tiles of every width: 100 rows are whole ones of 16 to 64, and a rest.
std::vector<float> outputs_of(const Context& context, DataType scores, DataType values, Precision precision) {
  constexpr std::int64_t kRows = 100, kKeys = 290, kDim = 24;
  test::Random random(11);
  const auto elements = [&](std::int64_t rows, DataType type) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(rows * kDim) * 4);
    for (std::int64_t i = 0; i < rows * kDim; ++i) {
      const float x = random.normal();
      if (type == DataType::i8)
        reinterpret_cast<std::int8_t*>(bytes.data())[i] = static_cast<std::int8_t>(20 * x);
      else if (type == DataType::f16)
        kernels::from_float(x, reinterpret_cast<kernels::F16*>(bytes.data()) + i);
      else if (type == DataType::bf16)
        kernels::from_float(x, reinterpret_cast<kernels::Bf16*>(bytes.data()) + i);
      else
        reinterpret_cast<float*>(bytes.data())[i] = x;
    }
    return bytes;
  };
  const auto q = elements(kRows, scores), k = elements(kKeys, scores), v = elements(kKeys, values);
  std::vector<float> out(static_cast<std::size_t>(kRows * kDim));
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 1, kRows, kDim, scores);
  args.k = ConstTensor::bhsd(k.data(), 1, 1, kKeys, kDim, scores);
  args.v = ConstTensor::bhsd(v.data(), 1, 1, kKeys, kDim, values);
  args.out = Tensor::bhsd(out.data(), 1, 1, kRows, kDim);
  if (scores == DataType::i8) args.scale = 0.001f;
  args.is_causal = true;
  args.precision = precision;
  args.pipeline = Pipeline::online;
  const Status status = attention_forward(context, args);
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

TEST(CoreTuning, EveryTileOfEveryProductCanBeChosenAndGivesTheSameBits) {
  using kernels::Element;
  std::set<std::string> chosen;
  for (const Isa isa : kernels::kIsas) {
    if (!(kernels::host_isas() & bit(isa))) continue;
    for (const auto& [scores, values, type, value, product] :
         {std::tuple{DataType::f32, DataType::f32, Element::f32, Element::f32, Element::f32},
          {DataType::bf16, DataType::bf16, Element::bf16, Element::bf16, Element::bf16},
          {DataType::f16, DataType::f16, Element::f16, Element::f16, Element::f16},
          {DataType::i8, DataType::f32, Element::i8, Element::f32, Element::f32}}) {
      const kernels::KernelSet* const set =
          kernels::kernel_set(isa, {type, type, value, Element::f32}, product);
      if (!set) continue;
      SCOPED_TRACE(::testing::Message() << name(isa) << " " << kernels::element_name(type));
      const Precision precision = type == Element::f32  ? Precision::standard
                                  : type == Element::i8 ? Precision::int8
                                                        : Precision::half;
      std::vector<float> want;
      for (int vectors = 1; vectors <= 3; ++vectors) {
        const kernels::GemmKernel* const tile = set->gemm[vectors - 1];
        if (!tile) continue;
        const TemporaryFile file("[" + std::string(name(kernels::base_of(isa))) +
                                 "]\ntile_vectors = " + std::to_string(vectors) + "\n");
        CoreTuning tuning = core_tuning(Core::generic, isa);
        std::string why;
        ASSERT_TRUE(read_tuning(file.path(), isa, &tuning, &why)) << why;
        kernels::KernelSet fitted = *set;
        fit_kernels(tuning, {}, &fitted);
        EXPECT_EQ(fitted.max_nr, tile->nr);
        chosen.insert(tile->name);
        ContextOptions options;
        options.executor = "serial";
        options.isa = name(isa);
        options.tuning = file.path();
        Context context;
        ASSERT_TRUE(Context::create(options, &context).ok());
        const std::vector<float> got = outputs_of(context, scores, values, precision);
        if (want.empty()) want = got;
        EXPECT_TRUE(test::same_bits(got, want)) << tile->name;
      }
    }
  }
  for (const kernels::GemmKernel& row : kernels::gemm_kernels()) {
    if (!(kernels::host_isas() & bit(row.isa))) continue;
    EXPECT_TRUE(chosen.contains(row.name)) << row.name;
  }
}

}  // namespace
}  // namespace kumiko
