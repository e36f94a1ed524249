// CPU registration of margin_softmax and its gradient: a supcon whose candidates are the centres, and whose positive is kept apart.
#include "../margin_softmax_contract.h"

#include <numeric>
#include <tuple>

#include "pair_softmax.h"
#include "tensors.h"

namespace zsml::cpu {
namespace {

template <class T, class S>
T measured(int measure, const S* a, const S* b, int64_t depth) {
  if (measure == kInner) {
    std::vector<T> of_a, of_b;
    return row_maths<T>(best_isa()).inner(in_type<T>(a, depth, of_a), in_type<T>(b, depth, of_b), depth);
  }
  return measure == kDistance ? exact_distance<T>(a, b, depth) : squared_distance<T>(a, b, depth, T(1));
}

template <class S, class T>
class MarginSoftmax {
 public:
  explicit MarginSoftmax(const MarginSoftmaxInput& in)
      : labels_(ids(in.labels)),
        samples_(side(in.x)),
        centers_(side(in.centers)),
        setting_({in.measure, static_cast<T>(in.scale)}, frame(in.measure), &parallel_for, static_cast<int>(torch::stable::get_num_threads()),
                 best_isa()),
        pairs_(samples_, centers_, setting_, kAllPairs, true) {
    for (int64_t i = 0; i < samples_.count(); ++i) samples_.label[i] = static_cast<Integer<T>>(labels_[i]);
    for (int64_t j = 0; j < centers_.count(); ++j) centers_.label[j] = static_cast<Integer<T>>(j);
  }

  void forward(T* others, T* target) const {
    const auto sums = pairs_.sums();
    const auto usable = std::count_if(centers_.finite.begin(), centers_.finite.end(), [](auto finite) { return finite != 0; });
    parallel_for(0, samples_.count(), 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const bool finite = samples_.finite[i];
        const T nan = std::numeric_limits<T>::quiet_NaN();
        others[i] = finite ? static_cast<T>(value(sums[i].all) + sums[i].plus) : nan;
        // Distances whose squares overflow look like no pairs at all, and no loss: said aloud instead.
        if (others[i] == -std::numeric_limits<T>::infinity() && usable > centers_.finite[labels_[i]]) others[i] = nan;
        target[i] = finite && centers_.finite[labels_[i]] ? measured<T>(measure(), samples_.row(i), centers_.row(labels_[i]), depth()) : nan;
      }
    });
  }

  // Gradients [B] of others and target; grad_x [B, D] or null, grad_centers [C, D] or null.
  void backward(const T* grad_others, const T* grad_target, const T* others, const T* target, S* grad_x, S* grad_centers) {
    const T scale = setting_.measure.scale;
    const T factor = measure() == kInner ? scale : measure() == kSquaredDistance ? -2 * scale : scale * scale;  // -scale d is divided by
    samples_.set_pulls([&](int64_t i) {
      const T g = std::isnan(target[i]) ? T(0) : factor * grad_others[i];
      AnchorPull<T> pull = anchor_pull(false, g, others[i], 1, T(0));
      pull.positive = 0;
      return pull;
    });
    target_weight_.assign(samples_.count(), T(0));
    for (int64_t i = 0; i < samples_.count(); ++i)
      if (!std::isnan(target[i])) target_weight_[i] = measure_weight(measure(), grad_target[i], target[i]);
    if (grad_x)
      pairs_.gradient(samples_, centers_, [&](int64_t i, const T* sum, T total) {
        std::vector<T> flow = others_flow(samples_, i, sum, total);
        add_target(flow, i, samples_.row(i), centers_.row(labels_[i]));
        store(flow, grad_x + i * depth());
      });
    if (grad_centers) {
      std::vector<int64_t> by_class(samples_.count());
      std::iota(by_class.begin(), by_class.end(), int64_t{0});
      std::stable_sort(by_class.begin(), by_class.end(), [&](int64_t a, int64_t b) { return labels_[a] < labels_[b]; });
      pairs_.gradient(centers_, samples_, [&](int64_t j, const T* sum, T total) {
        std::vector<T> flow = others_flow(centers_, j, sum, total);
        auto at = std::lower_bound(by_class.begin(), by_class.end(), j, [&](int64_t i, int64_t c) { return labels_[i] < c; });
        for (; at != by_class.end() && labels_[*at] == j; ++at) add_target(flow, *at, centers_.row(j), samples_.row(*at));
        store(flow, grad_centers + j * depth());
      });
    }
  }

 private:
  using Side = PairSide<S, T>;

  int measure() const { return setting_.measure.measure; }
  int64_t depth() const { return samples_.depth; }

  static Side side(const Tensor& t) {
    std::vector<int64_t> order(t.size(0));
    std::iota(order.begin(), order.end(), int64_t{0});
    std::vector<uint8_t> finite;
    largest_coordinate<T>(rows<S>(t), finite, &parallel_for);
    Side made(rows<S>(t), std::move(order), finite);
    made.label.assign(made.padded(), -2);
    return made;
  }

  Frame<T> frame(int measure) const {
    if (measure == kInner) return {T(1), std::vector<T>(depth(), T(0))};
    return choose_frame<T>(centers_.rows, centers_.finite, T(0), &parallel_for, 0);  // no scale: the unit of a logit is fixed
  }

  // sum_j w_j column_j for the inner product, sum_j w_j (row - column_j) for the distances.
  std::vector<T> others_flow(const Side& side, int64_t row, const T* sum, T total) const {
    std::vector<T> flow(sum, sum + depth());
    if (measure() == kInner || !side.finite[row]) return flow;
    const std::vector<T>& shift = setting_.frame.shift;
    for (int64_t k = 0; k < depth(); ++k) flow[k] = (static_cast<T>(side.row(row)[k]) - shift[k]) * total - sum[k];
    return flow;
  }

  // What the target of sample i adds for the row `from`, the other of the two being `to`.
  void add_target(std::vector<T>& flow, int64_t i, const S* from, const S* to) const {
    const T weight = target_weight_[i];
    if (weight == T(0)) return;  // among them all rows that are not finite
    for (int64_t k = 0; k < depth(); ++k)
      flow[k] += weight * (measure() == kInner ? static_cast<T>(to[k]) : static_cast<T>(from[k]) - static_cast<T>(to[k]));
  }

  void store(const std::vector<T>& flow, S* out) const {
    for (int64_t k = 0; k < depth(); ++k) out[k] = static_cast<S>(flow[k]);
  }

  const int64_t* labels_;
  Side samples_, centers_;
  PairSetting<S, T> setting_;
  PairSoftmax<S, T> pairs_;
  std::vector<T> target_weight_;  // of sample i's pair with its own centre
};

template <class T>
T* values(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace

std::tuple<Tensor, Tensor> margin_softmax(const Tensor& x, const Tensor& centers, const Tensor& labels, int64_t measure, double scale) {
  const MarginSoftmaxInput in(x, centers, labels, measure, scale);
  Tensor others = torch::stable::empty({in.x.size(0)}, accumulate_type(x.scalar_type()));
  Tensor target = torch::stable::empty({in.x.size(0)}, accumulate_type(x.scalar_type()));
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    MarginSoftmax<S, T>(in).forward(values<T>(others), values<T>(target));
  });
  return {others, target};
}

std::tuple<Tensor, Tensor> margin_softmax_backward(const Tensor& grad_others, const Tensor& grad_target, const Tensor& x, const Tensor& centers,
                                                   const Tensor& labels, const Tensor& others, const Tensor& target, int64_t measure, double scale,
                                                   bool need_x, bool need_centers) {
  const MarginSoftmaxGradientInput in(grad_others, grad_target, {x, centers, labels, measure, scale}, others, target);
  Tensor grad_x = torch::stable::empty({need_x ? in.x.size(0) : 0, in.x.size(1)}, x.scalar_type());
  Tensor grad_centers = torch::stable::empty({need_centers ? in.centers.size(0) : 0, in.x.size(1)}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    const auto of = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    MarginSoftmax<S, T>(in).backward(of(in.grad_others), of(in.grad_target), of(in.others), of(in.target), need_x ? values<S>(grad_x) : nullptr,
                                     need_centers ? values<S>(grad_centers) : nullptr);
  });
  return {grad_x, grad_centers};
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) {
  m.impl("margin_softmax", TORCH_BOX(&zsml::cpu::margin_softmax));
  m.impl("margin_softmax_backward", TORCH_BOX(&zsml::cpu::margin_softmax_backward));
}
