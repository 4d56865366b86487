namespace aspis::nn {}
