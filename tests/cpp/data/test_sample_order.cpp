#include <algorithm>
#include <numeric>
#include <set>

#include "data/sample_order.h"
#include "support/catch.h"

using aspis::data::Blend;
using aspis::data::epoch_permutation;
using aspis::data::megatron_order;
using aspis::data::MegatronOrder;
using aspis::data::NumpyShuffle;

namespace {

template <typename T>
std::vector<T> counted(size_t n) {
  std::vector<T> values(n);
  std::iota(values.begin(), values.end(), T{0});
  return values;
}

bool is_permutation_of_range(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values == counted<int64_t>(values.size());
}

// Tokens of sample s, each as (sequence, offset), straight from the definition: the tokens
// s L .. s L + L of the sequences of the document index laid end to end.
using Token = std::pair<int32_t, int32_t>;
std::vector<Token> expected_sample(const std::vector<int32_t>& lengths, const MegatronOrder& order,
                                   int64_t seq_len, int64_t sample) {
  std::vector<Token> stream;
  for (const int32_t sequence : order.document_index) {
    for (int32_t i = 0; i < lengths[static_cast<size_t>(sequence)]; ++i) {
      stream.emplace_back(sequence, i);
    }
  }
  const auto begin = stream.begin() + sample * seq_len;
  return {begin, begin + seq_len + 1};
}

}  // namespace

TEST_CASE("numpy shuffle: the vector of numpy.random.RandomState(1234)") {
  NumpyShuffle random(1234);
  auto first = counted<int32_t>(10), second = counted<int32_t>(10);
  random.shuffle(std::span(first));
  random.shuffle(std::span(second));
  CHECK(first == std::vector<int32_t>{7, 2, 9, 1, 0, 8, 4, 5, 6, 3});
  CHECK(second == std::vector<int32_t>{7, 3, 5, 1, 4, 8, 0, 2, 6, 9});
  std::vector<int32_t> none, one = {5};
  random.shuffle(std::span(none));
  random.shuffle(std::span(one));
  CHECK(one[0] == 5);
}

TEST_CASE("epoch permutation: depends on seed and epoch only") {
  for (const int64_t n : {0, 1, 2, 3, 100, 1000}) {
    CHECK(is_permutation_of_range(epoch_permutation(n, 1, 0)));
    CHECK(epoch_permutation(n, 1, 3) == epoch_permutation(n, 1, 3));
  }
  CHECK(epoch_permutation(100, 1, 0) != epoch_permutation(100, 1, 1));
  CHECK(epoch_permutation(100, 1, 0) != epoch_permutation(100, 2, 0));
  // Each of the 24 orders of 4 comes up about equally often.
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 400; ++epoch) orders.insert(epoch_permutation(4, 9, epoch));
  CHECK(orders.size() == 24);
}

TEST_CASE("megatron order: samples are consecutive pieces that share one token") {
  const std::vector<int32_t> lengths = {5, 1, 0, 12, 3, 7};  // 28 tokens
  for (const int64_t seq_len : {1, 2, 3, 4, 9, 27, 40}) {
    for (const int64_t samples : {1, 3, 8, 30}) {
      const MegatronOrder order = megatron_order(lengths, seq_len, samples, 7);
      CAPTURE(seq_len, samples, order.epochs);
      REQUIRE(order.samples() >= samples);
      CHECK(order.epochs * 28 >= samples * seq_len + 1);
      CHECK((order.epochs - 1) * 28 < samples * seq_len + 1);
      CHECK(order.samples() == (order.epochs * 28 - 1) / seq_len);
      REQUIRE(order.sample_index.size() == order.shuffle_index.size() + 1);
      CHECK(is_permutation_of_range(order.shuffle_index));
      for (int64_t sample = 0; sample < order.samples(); ++sample) {
        std::vector<Token> tokens;
        auto [document, offset] = order.sample_index[sample];
        while (static_cast<int64_t>(tokens.size()) < seq_len + 1) {
          const int32_t sequence = order.document_index[document];
          if (offset < lengths[static_cast<size_t>(sequence)]) {
            tokens.emplace_back(sequence, static_cast<int32_t>(offset++));
          } else {
            ++document;
            offset = 0;
          }
        }
        CHECK(tokens == expected_sample(lengths, order, seq_len, sample));
      }
    }
  }
}

TEST_CASE("megatron order: a last epoch that is little used is shuffled on its own") {
  const std::vector<int32_t> lengths(10, 10);  // 100 tokens, 24 samples of 4 per epoch
  // One epoch: nothing to separate. Two: the first gives 24, int(0.8 x 24) = 19 from the last.
  CHECK_FALSE(megatron_order(lengths, 4, 24, 1).separate_last_epoch);
  const MegatronOrder little = megatron_order(lengths, 4, 24 + 18, 1);
  CHECK(little.epochs == 2);
  CHECK(little.separate_last_epoch);
  CHECK_FALSE(megatron_order(lengths, 4, 24 + 19, 1).separate_last_epoch);
  // Separate: both halves of the documents and of the samples are permutations of their own.
  const auto& documents = little.document_index;
  CHECK(std::set<int32_t>(documents.begin(), documents.begin() + 10).size() == 10);
  CHECK(std::set<int32_t>(documents.begin() + 10, documents.end()).size() == 10);
  CHECK(*std::max_element(little.shuffle_index.begin(), little.shuffle_index.begin() + 24) == 23);
  CHECK_THROWS_AS(megatron_order({}, 4, 1, 1), std::invalid_argument);
}

TEST_CASE("blend: each set gets its share at every step, ties go to the first") {
  Blend blend({3.0, 1.0, 2.0});
  std::vector<int64_t> taken(3, 0);
  std::vector<int64_t> first;
  for (int64_t step = 1; step <= 6000; ++step) {
    const Blend::Choice choice = blend.next();
    CHECK(choice.sample == taken[choice.set]);
    ++taken[choice.set];
    if (step <= 6) first.push_back(choice.set);
    for (size_t i = 0; i < 3; ++i) {
      const double share = blend.shares()[i] * static_cast<double>(step);
      REQUIRE(std::abs(static_cast<double>(taken[i]) - share) <= 2.0);
    }
  }
  CHECK(taken == std::vector<int64_t>{3000, 1000, 2000});
  // By hand, shares 1/2, 1/6, 1/3, lags before each choice in sixths: 3 1 2 | -3 1 2 | 0 2 -2 |
  // 3 -3 0 | 0 -2 2 | 3 -1 -2.
  CHECK(first == std::vector<int64_t>{0, 2, 1, 0, 2, 0});
  Blend even({1.0, 1.0});
  CHECK(even.next().set == 0);
  CHECK(even.next().set == 1);
}

TEST_CASE("blend: goes on from what was used") {
  Blend whole({0.7, 0.2, 0.1});
  for (int i = 0; i < 123; ++i) whole.next();
  Blend resumed({0.7, 0.2, 0.1});
  resumed.restore(whole.used());
  CHECK(resumed.steps() == 123);
  for (int i = 0; i < 500; ++i) {
    const Blend::Choice a = whole.next(), b = resumed.next();
    CHECK(a.set == b.set);
    CHECK(a.sample == b.sample);
  }
}

TEST_CASE("blend: samples built per set") {
  CHECK(aspis::data::blended_samples(1000, 0.5) == 503);   // ceil(500 x 1.005)
  CHECK(aspis::data::blended_samples(1000, 0.0001) == 2);  // ceil(1 x 1.005)
}
