// SPDX-License-Identifier: Apache-2.0
#include "linear.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <dnnl.hpp>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace inference {

struct Free {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
using Bytes = std::unique_ptr<std::byte, Free>;

namespace {

using dnnl::memory;

// Debian's oneDNN is built on OpenMP and splits a kernel over as many threads as its creator may use. The
// server is parallel by its own threads: one thread per call.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

// Large pages if the system has any: one text reads 42 MB of weights, and a request of one text takes 6 %
// less CPU time than with 10000 pages of 4 KiB.
Bytes large_pages(std::size_t size) {
  constexpr std::size_t kPage = std::size_t{2} << 20;
  const std::size_t whole = (size + kPage - 1) / kPage * kPage;
  Bytes bytes(static_cast<std::byte*>(std::aligned_alloc(kPage, whole)));
  if (bytes == nullptr) throw std::bad_alloc();
  ::madvise(bytes.get(), whole, MADV_HUGEPAGE);  // the memory is usable even if this is refused
  return bytes;
}

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::desc rows_desc(std::int64_t rows, std::int64_t width) {
  return {{1, width, 1, rows}, memory::data_type::f32, memory::format_tag::nhwc};
}

memory::desc weight_desc(std::int64_t in, std::int64_t out, memory::format_tag tag) {
  return {{out, in, 1, 1}, memory::data_type::f32, tag};
}

memory::desc bias_desc(std::int64_t out) {
  return {{out}, memory::data_type::f32, memory::format_tag::a};
}

dnnl::convolution_forward::primitive_desc describe(std::int64_t rows, std::int64_t in, std::int64_t out,
                                                   Epilogue epilogue, const memory::desc& weight) {
  dnnl::post_ops after;
  if (epilogue == Epilogue::kGelu) after.append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_erf, 0.0f, 0.0f);
  if (epilogue == Epilogue::kAdd) after.append_sum();
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(after);
  // The library's own scratchpad belongs to the thread that made the primitive, but other threads run it.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return {{dnnl::prop_kind::forward_inference,
           dnnl::algorithm::convolution_direct,
           rows_desc(rows, in),
           weight,
           bias_desc(out),
           rows_desc(rows, out),
           {1, 1},
           {0, 0},
           {0, 0}},
          attributes,
          cpu()};
}

[[noreturn]] void fail(const dnnl::error& error) {
  throw std::runtime_error(std::string("linear layer: oneDNN: ") + error.what());
}

}  // namespace

struct LinearLayers::Impl {
  struct Kernel {
    dnnl::convolution_forward run;
    memory::desc x, y, scratchpad;
  };
  struct Layer {
    memory weight, bias;
  };
  std::int64_t in = 0;
  std::int64_t out = 0;
  memory::desc packed;          // layout of the weights, the same for every number of rows
  std::vector<Kernel> kernels;  // [i] multiplies i + 1 rows
  Bytes weights;
  std::int64_t count = 0;  // layers that the memory holds
  std::vector<Layer> layers;
  std::string name;
};

LinearLayers::LinearLayers(std::int64_t in, std::int64_t out, Epilogue epilogue, std::int64_t count)
    : impl_(std::make_unique<Impl>()) {
  const OneThread one_thread;
  try {
    impl_->in = in;
    impl_->out = out;
    const auto best = describe(kMaxRows, in, out, epilogue, weight_desc(in, out, memory::format_tag::any));
    impl_->packed = best.weights_desc();
    impl_->name = best.impl_info_str();
    impl_->weights = large_pages(static_cast<std::size_t>(count) * impl_->packed.get_size());
    impl_->count = count;
    for (std::int64_t rows = 1; rows <= kMaxRows; ++rows) {
      const auto each = describe(rows, in, out, epilogue, impl_->packed);
      impl_->kernels.push_back({dnnl::convolution_forward(each), rows_desc(rows, in), rows_desc(rows, out),
                                each.scratchpad_desc()});
    }
  } catch (const dnnl::error& error) {
    fail(error);
  }
}

LinearLayers::~LinearLayers() = default;
LinearLayers::LinearLayers(LinearLayers&&) noexcept = default;
LinearLayers& LinearLayers::operator=(LinearLayers&&) noexcept = default;

void LinearLayers::add(const float* weight, const float* bias) {
  if (std::ssize(impl_->layers) == impl_->count) {
    throw std::length_error("linear layers: there is memory for " + std::to_string(impl_->count) +
                            ", one more was added");
  }
  const OneThread one_thread;
  try {
    std::byte* place = impl_->weights.get() + impl_->layers.size() * impl_->packed.get_size();
    Impl::Layer layer{memory(impl_->packed, cpu(), place), memory(bias_desc(impl_->out), cpu())};
    memory given(weight_desc(impl_->in, impl_->out, memory::format_tag::oihw), cpu(),
                 const_cast<float*>(weight));
    dnnl::stream stream(cpu());
    dnnl::reorder(given, layer.weight).execute(stream, given, layer.weight);
    stream.wait();
    std::copy_n(bias, impl_->out, static_cast<float*>(layer.bias.get_data_handle()));
    impl_->layers.push_back(std::move(layer));
  } catch (const dnnl::error& error) {
    fail(error);
  }
}

void LinearLayers::run(std::size_t index, std::int64_t rows, const float* x, float* y) const {
  const Impl::Layer& layer = impl_->layers.at(index);
  try {
    dnnl::stream stream(cpu());
    for_each_part(rows, [&](std::int64_t first, std::int64_t count) {
      const Impl::Kernel& kernel = impl_->kernels[static_cast<std::size_t>(count - 1)];
      const memory from(kernel.x, cpu(), const_cast<float*>(x + first * impl_->in));
      const memory to(kernel.y, cpu(), y + first * impl_->out);
      kernel.run.execute(stream, {{DNNL_ARG_SRC, from},
                                  {DNNL_ARG_WEIGHTS, layer.weight},
                                  {DNNL_ARG_BIAS, layer.bias},
                                  {DNNL_ARG_DST, to},
                                  {DNNL_ARG_SCRATCHPAD, memory(kernel.scratchpad, cpu())}});
    });
    stream.wait();
  } catch (const dnnl::error& error) {
    fail(error);
  }
}

const std::string& LinearLayers::kernels() const {
  return impl_->name;
}

}  // namespace inference
