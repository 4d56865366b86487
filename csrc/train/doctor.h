#pragma once

namespace aspis::train {

// Prints versions, devices, compiled architectures, and one forward and backward of each op against
// its reference on every device. Throws when an op disagrees with its reference.
void run_doctor();

}  // namespace aspis::train
