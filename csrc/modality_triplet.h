// modality_triplet: the batch-hard triplet losses within and across modalities in one piece, from the embeddings to the scalar.
//
//   u_i     = x_i / |x_i|  where normalize, else x_i            d, j = hardest_pairs(u)
//   v[t, i] = d[positive(t), i] - d[negative(t), i] + margin    t: within, hybrid, cross, those of the bit set `terms`
//   L_t     = mean_i phi(v[t, i])                               phi: relu where beta = 0, else log(1 + e^(beta v)) / beta
//   g_t     = mean_i sigmoid(beta v[t, i])                      w_t = mean(g) / max(g_t, 0.1)
//   loss    = mean_t L_t | sum_t w_t L_t, w held fixed | (sum_t w_t) mean_t L_t       weighting: none, adaptive, released
//
//   x [B, D] float16 | bfloat16 | float32 | float64     labels, modality [B] int64
//   loss [] and slope [4, B] = d loss / d distance, distance [4, B], unit [B, D] in float32 (float64 for float64)
//   index [4, B] int64, length [B] float64 = |x_i|, 1 for a row of zeros; unit and length are empty where nothing is normalized
//
// Source: Hermans et al. 2017 (arXiv 1703.07737); MATHM (arXiv 2112.07966).
#pragma once

#include "hardest_pairs.h"

namespace zsml {

constexpr int kTerms = 3;
ZSML_HD int term_positive(int term) { return term == 0 ? kWithinPos : kCrossPos; }
ZSML_HD int term_negative(int term) { return term == 2 ? kCrossNeg : kWithinNeg; }
enum Weighting { kEqual = 0, kAdaptive = 1, kReleased = 2 };
constexpr double kLeastHardness = 0.1;

ZSML_HD double triplet_sigmoid(double z) { return z >= 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z)); }

// phi for v, and its slope from h = sigmoid(beta v). Beyond beta v = 20 the softplus is v, as in torch. A missing partner makes
// v = -inf, and both 0.
ZSML_HD double triplet_phi(double v, double beta) {
  const double above = v > 0 || v != v ? v : 0;
  return beta == 0 || beta * v > 20 ? above : above + log1p(exp(-fabs(beta * v))) / beta;
}
ZSML_HD double triplet_slope(double v, double hardness, double beta) {
  if (beta == 0) return v > 0 || v != v;
  return beta * v > 20 ? 1 : hardness;
}

// From the means over the anchors to the loss, and how it moves with each of them.
struct TripletWeights {
  double loss, by_term[kTerms], by_hardness[kTerms];

  // mean_phi, mean_hardness: L_t and g_t of the terms in use.
  ZSML_HD TripletWeights(int terms, int weighting, const double* mean_phi, const double* mean_hardness) : loss(0), by_term(), by_hardness() {
    double used = 0, mean_loss = 0, mean = 0, inverse = 0, sum = 0;
    for (int t = 0; t < kTerms; ++t)
      if (terms >> t & 1) used += 1, mean_loss += mean_phi[t], mean += mean_hardness[t], inverse += 1 / floored(mean_hardness[t]);
    mean_loss /= used, mean /= used;
    for (int t = 0; t < kTerms; ++t) {
      if (!(terms >> t & 1)) continue;
      const double weight = mean / floored(mean_hardness[t]);
      sum += weight;
      loss += weight * mean_phi[t];
      by_term[t] = weighting == kAdaptive ? weight : 1 / used;
      const double own = mean_hardness[t] >= kLeastHardness ? mean / (mean_hardness[t] * mean_hardness[t]) : 0;
      by_hardness[t] = weighting == kReleased ? mean_loss * (inverse / used - own) : 0;
    }
    if (weighting == kEqual) loss = mean_loss;
    if (weighting == kReleased) {
      loss = sum * mean_loss;
      for (int t = 0; t < kTerms; ++t) by_term[t] *= sum;
    }
  }

 private:
  static ZSML_HD double floored(double hardness) { return hardness > kLeastHardness || hardness != hardness ? hardness : kLeastHardness; }
};

}  // namespace zsml
