# Finds LibTorch inside the installed torch wheel, with or without a CUDA toolkit.
#
# The wheel's own TorchConfig.cmake stops when no CUDA toolkit is installed and adds -gencode flags of
# its own when one is, so the few libraries needed are imported here instead
# (docs/decisions/001_import_torch_by_hand.md). torch is not imported: only its version.py is read.
#
# Reads    ASPIS_PYTHON           interpreter that has torch (default: .venv/bin/python, then python3)
#          ASPIS_CUDA             whether the CUDA libraries are wanted
# Defines  TorchWheel_VERSION, TorchWheel_CUDA_VERSION, TorchWheel_LIB_DIR, TorchWheel_PYTHON
#          torch_wheel::cpu       headers, libc10, libtorch_cpu, libtorch
#          torch_wheel::cuda      the above and libc10_cuda, libtorch_cuda (only with ASPIS_CUDA)
#          torch_wheel::python    libtorch_python and the interpreter's headers (only if it has them)

if(NOT ASPIS_PYTHON)
  if(EXISTS "${CMAKE_SOURCE_DIR}/.venv/bin/python")
    set(ASPIS_PYTHON "${CMAKE_SOURCE_DIR}/.venv/bin/python")
  else()
    set(ASPIS_PYTHON "python3")
  endif()
endif()

execute_process(
  COMMAND "${ASPIS_PYTHON}" -c "
import importlib.util, pathlib, runpy, sysconfig
spec = importlib.util.find_spec('torch')
if spec is None: raise SystemExit('no torch')
root = pathlib.Path(spec.origin).parent
v = runpy.run_path(str(root / 'version.py'))
print(root, v['__version__'], v.get('cuda') or 'none', sysconfig.get_path('include'),
      sysconfig.get_config_var('EXT_SUFFIX'), sep=';')
"
  OUTPUT_VARIABLE _torch_facts OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_VARIABLE _torch_error RESULT_VARIABLE _torch_result)

if(_torch_result EQUAL 0)
  list(GET _torch_facts 0 _torch_root)
  list(GET _torch_facts 1 TorchWheel_VERSION)
  list(GET _torch_facts 2 TorchWheel_CUDA_VERSION)
  list(GET _torch_facts 3 TorchWheel_PYTHON_INCLUDE_DIR)
  list(GET _torch_facts 4 TorchWheel_PYTHON_SUFFIX)
  set(TorchWheel_LIB_DIR "${_torch_root}/lib")
  set(TorchWheel_PYTHON "${ASPIS_PYTHON}")
else()
  message(STATUS "No torch in ${ASPIS_PYTHON}: ${_torch_error}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TorchWheel
  REQUIRED_VARS TorchWheel_LIB_DIR VERSION_VAR TorchWheel_VERSION
  REASON_FAILURE_MESSAGE "Install it with scripts/setup.sh, or name an interpreter that has it: -DASPIS_PYTHON=/path/to/python3")

function(_torch_wheel_import name file)
  add_library(torch_wheel::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(torch_wheel::${name} PROPERTIES IMPORTED_LOCATION "${TorchWheel_LIB_DIR}/${file}")
endfunction()

if(TorchWheel_FOUND AND NOT TARGET torch_wheel::cpu)
  _torch_wheel_import(c10 libc10.so)
  _torch_wheel_import(torch_cpu libtorch_cpu.so)
  _torch_wheel_import(torch libtorch.so)
  add_library(torch_wheel::cpu INTERFACE IMPORTED GLOBAL)
  target_include_directories(torch_wheel::cpu SYSTEM INTERFACE
    "${_torch_root}/include" "${_torch_root}/include/torch/csrc/api/include")
  target_compile_definitions(torch_wheel::cpu INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  # The wheel's libraries find their own dependencies (CUDA, OpenMP) at run time.
  target_link_options(torch_wheel::cpu INTERFACE "LINKER:--allow-shlib-undefined")
  # The wheel's libraries export half a std::filesystem of an older compiler (remove_all calls address 0).
  # libstdc++ as the first library of ours is searched before them.
  target_link_options(torch_wheel::cpu INTERFACE
    "LINKER:--push-state,--no-as-needed" "SHELL:-lstdc++" "LINKER:--pop-state")
  target_link_libraries(torch_wheel::cpu INTERFACE
    torch_wheel::torch torch_wheel::torch_cpu torch_wheel::c10)
  # at::parallel_for is an OpenMP loop in a header. The wheel's own OpenMP runtime is linked, so that the
  # process has one thread pool.
  target_compile_options(torch_wheel::cpu INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  if(EXISTS "${TorchWheel_LIB_DIR}/libgomp.so.1")
    _torch_wheel_import(gomp libgomp.so.1)
    target_link_libraries(torch_wheel::cpu INTERFACE torch_wheel::gomp)
  else()
    find_package(OpenMP REQUIRED COMPONENTS CXX)
    target_link_libraries(torch_wheel::cpu INTERFACE OpenMP::OpenMP_CXX)
  endif()
  if(ASPIS_CUDA)
    _torch_wheel_import(c10_cuda libc10_cuda.so)
    _torch_wheel_import(torch_cuda libtorch_cuda.so)
    add_library(torch_wheel::cuda INTERFACE IMPORTED GLOBAL)
    # libtorch_cuda registers kernels and is named by no symbol: a linker must not drop it.
    target_link_options(torch_wheel::cuda INTERFACE "LINKER:--no-as-needed")
    target_link_libraries(torch_wheel::cuda INTERFACE
      torch_wheel::cpu torch_wheel::torch_cuda torch_wheel::c10_cuda)
  endif()
  if(EXISTS "${TorchWheel_PYTHON_INCLUDE_DIR}/Python.h")
    _torch_wheel_import(torch_python libtorch_python.so)
    add_library(torch_wheel::python INTERFACE IMPORTED GLOBAL)
    target_include_directories(torch_wheel::python SYSTEM INTERFACE "${TorchWheel_PYTHON_INCLUDE_DIR}")
    target_link_libraries(torch_wheel::python INTERFACE torch_wheel::cpu torch_wheel::torch_python)
  endif()
endif()
