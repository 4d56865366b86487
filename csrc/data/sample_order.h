#pragma once
// In which order samples are shown: Megatron's indices, numpy's legacy shuffle, blending.

#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace aspis::data {

// numpy.random.RandomState(seed).shuffle, bit for bit: MT19937 seeded by its own recurrence, and
// Fisher-Yates from the end with masked rejection. One generator serves several shuffles in turn.
class NumpyShuffle {
 public:
  explicit NumpyShuffle(uint32_t seed) : generator_(seed) {}

  template <typename T>
  void shuffle(std::span<T> values) {
    if (values.size() > (uint64_t{1} << 32)) {
      throw std::length_error("NumpyShuffle: at most 2^32 values");
    }
    for (uint64_t i = values.size(); i-- > 1;) {
      std::swap(values[i], values[draw(static_cast<uint32_t>(i))]);
    }
  }

 private:
  // Uniform in 0 .. last.
  uint32_t draw(uint32_t last);

  std::mt19937 generator_;
};

// A permutation of 0 .. count - 1 that depends on (seed, epoch) only.
std::vector<int64_t> epoch_permutation(int64_t count, uint64_t seed, int64_t epoch);

// The indices of Megatron's GPTDataset. A sample is seq_len + 1 tokens; consecutive samples share
// one. All in sequences of the shard (Megatron's "documents").
struct MegatronOrder {
  struct Place {
    int64_t document;  // position in document_index
    int64_t offset;    // tokens into that sequence
  };
  int64_t epochs = 1;
  bool separate_last_epoch = false;     // shuffled on its own
  std::vector<int32_t> document_index;  // sequence ids, epochs x sequences
  std::vector<Place> sample_index;      // where each sample begins; one row more than samples
  std::vector<int64_t> shuffle_index;   // sample number of each step

  int64_t samples() const { return static_cast<int64_t>(shuffle_index.size()); }
};

// `lengths` in tokens per sequence, `samples` wanted at least. Throws std::invalid_argument when
// no sample fits (a caller says so in its own words first) and for 2^31 sequences and more.
MegatronOrder megatron_order(std::span<const int32_t> lengths, int64_t seq_len, int64_t samples,
                             uint32_t seed);

// Samples that Megatron builds of a data set with this share of `samples` in a blend.
int64_t blended_samples(int64_t samples, double share);

// Which data set gives each step of a blend: the one that lags most behind its share.
class Blend {
 public:
  explicit Blend(std::vector<double> weights);  // > 0; normalised here

  struct Choice {
    int64_t set;
    int64_t sample;  // its next sample number
  };
  Choice next();

  const std::vector<double>& shares() const { return shares_; }
  int64_t steps() const { return steps_; }
  const std::vector<int64_t>& used() const { return used_; }
  // Goes on from samples already used.
  void restore(std::vector<int64_t> used);

 private:
  std::vector<double> shares_;
  std::vector<int64_t> used_;
  int64_t steps_ = 0;
};

}  // namespace aspis::data
