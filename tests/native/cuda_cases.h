// What the CUDA kernels are tried on: rows of every awkward kind, with labels, modalities and rows to leave out.
#pragma once

#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda_launches.h"

namespace zsml::cuda::test {

inline std::mt19937_64 random_bits(11);
inline int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }

struct BFloat16 {  // float rounded to 8 bits, as a type that is stored in one precision and computed in another
  uint16_t bits;
  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t all = emulator::same_bits<uint32_t>(value);
    bits = static_cast<uint16_t>((all + 0x7fff + (all >> 16 & 1)) >> 16);
  }
  operator float() const { return emulator::same_bits<float>(static_cast<uint32_t>(bits) << 16); }
};
struct Half {  // float16
  uint16_t bits;
  Half() = default;
  explicit Half(float value) {
    const double size = std::abs(static_cast<double>(value));
    const int exponent = std::max(size > 0 && size < INFINITY ? std::ilogb(size) : 0, -14);
    const long steps = size < INFINITY ? std::lrint(std::ldexp(size, 10 - exponent)) : 0;  // of 2^(exponent - 10); 1024 and more: normal
    const long all = std::isnan(value) ? 0x7e00 : size >= 65520 ? 0x7c00 : (exponent + 14) * 1024L + steps;
    bits = static_cast<uint16_t>(all | (std::signbit(value) ? 0x8000 : 0));
  }
  operator float() const {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                                      : std::ldexp(static_cast<float>(exponent ? 1024 + mantissa : mantissa), std::max(exponent, 1) - 25);
    return bits >> 15 ? -size : size;
  }
};
template <class S>
using Computed = std::conditional_t<std::is_same_v<S, double>, double, float>;
template <class S>
using Wide = std::conditional_t<std::is_same_v<S, double>, long double, double>;  // what the oracle computes in

// What the coordinates are. Whole numbers make every distance exact, so that the choice is exact too, ties included.
enum Kind { whole, whole_far, normal, normal_far, huge, tiny, extreme, denormal, clusters, duplicates, outlier, kinds };
inline const char* const kind_names[] = {"whole",   "whole_far", "normal",   "normal_far", "huge",   "tiny",
                                         "extreme", "denormal",  "clusters", "duplicates", "outlier"};
enum Labels { few, one_class, singletons, huge_ids, label_kinds };

template <class S>
std::vector<S> draw_rows(Kind kind, int64_t count, int64_t depth, bool broken) {
  using Limits = std::numeric_limits<Computed<S>>;
  constexpr bool half = std::is_same_v<S, Half>;
  const double largest = half ? 65504 : static_cast<double>(Limits::max()), least = half ? 0x1p-24 : Limits::denorm_min();
  std::vector<S> rows(count * depth);
  std::normal_distribution<double> normal;
  for (int64_t at = 0; at < count * depth; ++at) {
    const double gauss = normal(random_bits), integer = static_cast<double>(draw(-3, 3));
    const double centre = 100 * std::sin(static_cast<double>(at / depth % 5 * 1000 + at % depth));  // five centres, the same in every set
    const double values[] = {integer,
                             1000 + integer,
                             gauss,
                             1e4 + gauss,
                             (half ? 1e4 : 1e30) * gauss,
                             (half ? 1e-5 : 1e-30) * gauss,
                             std::ldexp(integer, half ? 14 : Limits::max_exponent - 2),
                             1000 * gauss * least,
                             centre + 1e-3 * gauss,
                             centre,
                             gauss};
    rows[at] = S(static_cast<Computed<S>>(values[kind]));
  }
  if (kind == outlier && count > 2)  // everybody else is so much smaller that in units of this one their squares vanish
    rows[draw(0, count * depth - 1)] = S(static_cast<Computed<S>>(draw(0, 1) || half ? largest / 8 : std::sqrt(largest) * 1000));
  for (int64_t i = 0; i < count && broken; ++i)
    if (draw(0, 9) == 0) rows[i * depth + draw(0, depth - 1)] = S(draw(0, 1) ? NAN : -INFINITY);
  return rows;
}

inline Ids draw_labels(Labels kind, int64_t count) {
  Ids ids(count);
  for (int64_t i = 0; i < count; ++i)
    ids[i] = kind == few ? draw(-2, 2) : kind == one_class ? 7 : kind == singletons ? i : (INT64_MIN + draw(0, 1) * (int64_t{1} << 32)) ^ draw(0, 1);
  return ids;
}

inline Ids draw_ids(int64_t count, int64_t low, int64_t high) {
  Ids ids(count);
  for (int64_t& id : ids) id = draw(low, high);
  return ids;
}

template <class S>
struct Case {
  Input<S> in;
  Kind kind;
  std::string name;

  Case(Kind kind, Labels labels, int64_t anchors, int64_t candidates, int64_t depth, bool self, bool broken) : kind(kind) {
    const int64_t modalities = draw(1, 3);
    in.self = self, in.excludes = !self && draw(0, 1), in.anchors = anchors, in.candidates = self ? anchors : candidates, in.depth = depth;
    in.x = draw_rows<S>(kind, anchors, depth, broken);
    in.labels = draw_labels(labels, anchors), in.modality = draw_ids(anchors, 0, modalities - 1);
    in.refs = self ? in.x : draw_rows<S>(kind, candidates, depth, broken);
    in.ref_labels = self ? in.labels : draw_labels(labels, candidates);
    in.ref_modality = self ? in.modality : draw_ids(candidates, 0, modalities - 1);
    if (in.excludes) in.exclude = draw_ids(anchors, -1, candidates - 1);
    const char* from = self ? " self" : in.excludes ? " refs exclude" : " refs";
    name = kind_names[kind] + std::string(from) + (broken ? " broken, " : ", ") + std::to_string(sizeof(S)) + " bytes, B " + std::to_string(anchors) +
           " M " + std::to_string(in.candidates) + " D " + std::to_string(depth);
  }

  [[noreturn]] void fail(const char* path, const std::string& what) const { throw std::runtime_error(std::string(path) + ": " + what); }
};

}  // namespace zsml::cuda::test
