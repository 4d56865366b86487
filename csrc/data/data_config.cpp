#include "data/data_config.h"

namespace aspis::data {

void fields(config::Fields& f, ShardSource& c) {
  f.require("path");
  f.text("path", c.path, "PREFIX of the shard's PREFIX.bin and PREFIX.idx.");
  f.number("weight", c.weight, "Share of the training rows, relative to the other shards.",
           {.min = 0.0});
  if (f.reading() && !(c.weight > 0.0)) f.fail("weight", "must be larger than 0");
}

void fields(config::Fields& f, DataConfig& c) {
  f.list("train", c.train, "Training shards.");
  f.text("validation", c.validation,
         "PREFIX of the validation shard; empty: none, nothing is evaluated.");
  f.integer("seq_len", c.seq_len, "Tokens of a row.", {.min = 1, .max = int64_t{1} << 30});
  f.choice("order", c.order, {"packed", "megatron"},
           "Order of the training rows: documents shuffled per epoch and laid end to end, or the "
           "samples of Megatron's GPTDataset.");
  f.boolean("reset_state_at_document", c.reset_state_at_document,
            "Documents of one row see nothing of each other; false: states and attention run on "
            "over their borders.");
  f.optional_integer("end_of_document", c.end_of_document,
                     "Id that ends a document, needed by order megatron with "
                     "reset_state_at_document; null: from the shard's description.",
                     {.min = 0});
}

}  // namespace aspis::data
