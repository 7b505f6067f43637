// SPDX-License-Identifier: Apache-2.0
// The picture: a box for each domain, and in it a line for each core with its tasks along predicted time.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tools/topology/report.h"

namespace kumiko::tools {
namespace {

constexpr double kMargin = 16;
constexpr double kLaneHeight = 16;
constexpr double kTitleHeight = 22;  // of a domain
constexpr double kGap = 10;          // between domains
constexpr double kLabelWidth = 76;
constexpr double kTimeWidth = 960;
constexpr double kHeader = 64;
constexpr double kFooter = 40;
constexpr double kLeastWidth = 0.5;  // Narrower neighbours of one head are drawn as one box.

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += static_cast<unsigned char>(c) < ' ' ? '?' : c;
    }
  }
  return result;
}

// Hues a golden angle apart, so that neighbouring heads differ and few colours repeat.
std::string colour_of(std::int32_t head) {
  const double hue = std::fmod(head * 137.508, 360.0) / 60.0;
  const double chroma = 0.42, light = 0.66;
  const auto channel = [&](double shift) {
    const double distance = std::abs(std::fmod(hue + shift, 6.0) - 3.0) - 1.0;
    const double value = light + chroma * (std::clamp(distance, 0.0, 1.0) - 0.5);
    return static_cast<int>(std::lround(255 * value));
  };
  char text[16];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", static_cast<unsigned>(channel(0)),
                static_cast<unsigned>(channel(4)), static_cast<unsigned>(channel(2)));
  return text;
}

std::string text_at(double x, double y, const std::string& text, const char* style = "") {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\"" + style + ">" + escaped(text) + "</text>\n";
}

std::string rectangle(double x, double y, double width, double height, const std::string& attributes) {
  return "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) + "\" height=\"" +
         number(height) + "\" " + attributes;
}

class Picture {
 public:
  explicit Picture(const View& view) : view_(view) {
    tasks_of_worker_.resize(view.lanes.size());
    for (const scheduler::SimulatedTask& task : view.schedule)
      tasks_of_worker_[static_cast<std::size_t>(task.worker)].push_back(task);
    makespan_ = static_cast<double>(std::max<std::int64_t>(view.makespan, 1));
  }

  std::string draw() {
    double y = kHeader;
    std::string body;
    for (std::size_t d = 0; d < view_.context.topology.domains.size(); ++d) body += domain(d, &y);
    const double width = 2 * kMargin + kLabelWidth + kTimeWidth, height = y + kFooter;
    std::string text =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" +
        number(width) + "\" height=\"" + number(height) + "\" viewBox=\"0 0 " + number(width) + " " +
        number(height) + "\" font-family=\"sans-serif\" font-size=\"11\">\n";
    text += rectangle(0, 0, width, height, "fill=\"#ffffff\"/>\n");
    return text + header() + body + axis(y) + "</svg>\n";
  }

 private:
  double x_of(double time) const { return kMargin + kLabelWidth + kTimeWidth * time / makespan_; }

  std::string header() const {
    const scheduler::Topology& topology = view_.context.topology;
    const Problem& p = view_.plan.problem;
    const std::string machine = topology.source + ": " + std::to_string(topology.domains.size()) +
                                " domains, " + std::to_string(topology.num_cores()) + " cores, " +
                                std::to_string(view_.context.executor->concurrency()) + " threads, policy " +
                                view_.context.config.policy->name;
    const std::string problem =
        "batch " + std::to_string(p.batch) + ", " + std::to_string(p.q_heads) + " query and " +
        std::to_string(p.kv_heads) + " KV heads, q_len " + std::to_string(p.q_len) + ", kv_len " +
        std::to_string(p.kv_len) + (p.is_causal ? ", causal" : "") + ": " +
        std::to_string(view_.plan.partition.tasks.size()) + " tasks, a colour for each KV head";
    return text_at(kMargin, kMargin + 10, machine, " font-size=\"14\" font-weight=\"bold\"") +
           text_at(kMargin, kMargin + 30, problem);
  }

  std::string domain(std::size_t index, double* y) const {
    const scheduler::Domain& domain = view_.context.topology.domains[index];
    const double height = kTitleHeight + kLaneHeight * static_cast<double>(domain.cores.size()) + 6;
    std::string text = "<g class=\"domain\">\n";
    text += rectangle(kMargin - 8, *y, kLabelWidth + kTimeWidth + 16, height,
                      "rx=\"5\" fill=\"#f4f5f7\" stroke=\"#8a93a0\"/>\n");
    text += text_at(kMargin, *y + 15,
                    "domain " + std::to_string(index) + ", NUMA node " + std::to_string(domain.numa_node) +
                        ", last-level cache " + std::to_string(domain.llc_bytes / 1024) + " KiB",
                    " font-weight=\"bold\"");
    double at = *y + kTitleHeight;
    for (const Lane& lane : view_.lanes) {
      if (lane.domain != static_cast<int>(index)) continue;
      text += lane_at(lane, at);
      at += kLaneHeight;
    }
    *y += height + kGap;
    return text + "</g>\n";
  }

  std::string lane_at(const Lane& lane, double y) const {
    std::string text = text_at(kMargin, y + 12, "CPU " + std::to_string(lane.os_cpu));
    if (lane.worker < 0)
      return text + text_at(kMargin + kLabelWidth, y + 12, "no worker", " fill=\"#8a93a0\"");
    text += rectangle(kMargin + kLabelWidth, y + 1, kTimeWidth, kLaneHeight - 2,
                      "class=\"lane\" fill=\"#e3e6ea\"/>\n");
    const auto& tasks = tasks_of_worker_[static_cast<std::size_t>(lane.worker)];
    for (std::size_t first = 0; first < tasks.size();) {
      std::size_t last = first;
      const std::int32_t head = head_of(tasks[first]);
      while (last + 1 < tasks.size() && head_of(tasks[last + 1]) == head &&
             x_of(static_cast<double>(tasks[last].end)) - x_of(static_cast<double>(tasks[first].begin)) <
                 kLeastWidth)
        ++last;
      text += box(tasks[first], tasks[last], y);
      first = last + 1;
    }
    return text;
  }

  std::int32_t head_of(const scheduler::SimulatedTask& task) const {
    return view_.plan.partition.costs[static_cast<std::size_t>(task.task)].group;
  }

  std::string box(const scheduler::SimulatedTask& first, const scheduler::SimulatedTask& last,
                  double y) const {
    const PlannedTask& task = view_.plan.partition.tasks[static_cast<std::size_t>(first.task)];
    const double x = x_of(static_cast<double>(first.begin));
    std::string title =
        "sequence " + std::to_string(task.batch) + ", KV head " + std::to_string(task.kv_head);
    if (&first == &last) {
      title += ", rows " + std::to_string(task.row_begin) + "-" + std::to_string(task.row_end - 1) +
               ", keys " + std::to_string(task.split_begin * kernels::kSplitKeys) + "-" +
               std::to_string(task.split_end * kernels::kSplitKeys - 1);
    }
    return rectangle(x, y + 1, x_of(static_cast<double>(last.end)) - x, kLaneHeight - 2,
                     "class=\"task\" fill=\"" + colour_of(head_of(first)) +
                         "\" stroke=\"#ffffff\" stroke-width=\"0.4\"><title>" + title + "</title></rect>\n");
  }

  std::string axis(double y) const {
    std::string text;
    for (int tenth = 0; tenth <= 10; tenth += 2) {
      text += text_at(
          x_of(makespan_ * tenth / 10), y + 12, std::to_string(10 * tenth) + " %",
          tenth == 10 ? " fill=\"#555d68\" text-anchor=\"end\"" : " fill=\"#555d68\" text-anchor=\"middle\"");
    }
    const auto& assignment = view_.plan.partition.assignment;
    const double bound = x_of(static_cast<double>(assignment.lower_bound));
    text += "<line x1=\"" + number(bound) + "\" y1=\"" + number(kHeader) + "\" x2=\"" + number(bound) +
            "\" y2=\"" + number(y) + "\" stroke=\"#c0392b\" stroke-dasharray=\"4 3\"/>\n";
    return text + text_at(kMargin, y + 28,
                          "predicted time until the last task ends; dashed: no schedule ends earlier",
                          " fill=\"#555d68\"");
  }

  const View& view_;
  std::vector<std::vector<scheduler::SimulatedTask>> tasks_of_worker_;
  double makespan_;
};

}  // namespace

std::string svg_picture(const View& view) {
  return Picture(view).draw();
}

}  // namespace kumiko::tools
