// The ranks of the relevant gallery items alone: all that average precision needs, without sorting anything else.
//
// The gallery is seen through `order`, which lists its rows class by class: class c is order[starts[c]] ... order[starts[c + 1] - 1],
// and rows of one class keep their ascending order. Query i asks for class query_class[i], whose R_i items are relevant.
// They are taken by ascending (distance, gallery row); for each of them three counts of the other classes' items are returned:
//
//   nearer       items strictly nearer to the query
//   tied_before  items at exactly the same distance with a lower gallery row
//   tied         items at exactly the same distance
//
// With p = 1, 2, ... R_i the place among the relevant, the rank is p + nearer + tied_before; in the best order of ties it is
// p + nearer, in the worst p + nearer + tied.
//
//   query        [Q, D]      query_class [Q] int64, a class with at least one item
//   gallery      [N, D]      order [N] int64, starts [C + 1] int64
//   shift        [D] float64, scale float64
//   result       int32 [3, T], T = sum_i R_i: query after query
//
// How: a query's R relevant distances are sorted first. Every other item then adds one to the count of the gap it falls into;
// gaps are found through a table of equal bins, so that almost no item needs a search. Running sums of the counts are the ranks.
//
// The order of distances is that of |g|^2 - 2 <q, g> in the accumulation type (float32; float64 for float64), each product one
// chain of multiply-adds over k = 0, 1, ..., so equal rows are at equal distances whatever block they were in. Both sides are
// first brought near the origin, where that expression does not cancel: x -> scale x - shift, scale a power of two. With `cosine`
// the order is that of -<q, g> / |g| (0 for a row of zeros), and nothing is shifted.
#pragma once

#include <cstdint>

namespace zsml {

enum Count { kNearer = 0, kTiedBefore = 1, kTied = 2, kCounts = 3 };

}  // namespace zsml
