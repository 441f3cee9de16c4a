# What every target is compiled with: warnings as errors, frame pointers (our own stacks appear in our own reports).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(tl-expected REQUIRED)
pkg_check_modules(libbpf REQUIRED IMPORTED_TARGET libbpf)
pkg_check_modules(libelf REQUIRED IMPORTED_TARGET libelf)
pkg_check_modules(libdw REQUIRED IMPORTED_TARGET libdw)

add_library(cloister_warnings INTERFACE)
target_compile_options(cloister_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor> $<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual>
  -fno-omit-frame-pointer -fstack-protector-strong
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # GCC 12 sees overlaps in std::string that cannot be (GCC bug 105651)

add_library(cloister_options INTERFACE)
target_link_libraries(cloister_options INTERFACE cloister_warnings)
target_include_directories(cloister_options INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
if(CLOISTER_SANITIZE)
  # GCC's own checks for uninitialised values are wrong about sanitized code, as its manual says.
  target_compile_options(cloister_options INTERFACE -fsanitize=${CLOISTER_SANITIZE} -fno-sanitize-recover=all
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(cloister_options INTERFACE -fsanitize=${CLOISTER_SANITIZE})
endif()

# What the names of the tests of a sanitizer's build begin with, so that one ctest run can hold several builds.
set(CLOISTER_TEST_PREFIX "")
if(CLOISTER_SANITIZE MATCHES "address")
  set(CLOISTER_TEST_PREFIX "asan.")
elseif(CLOISTER_SANITIZE MATCHES "thread")
  set(CLOISTER_TEST_PREFIX "tsan.")
endif()

# A program that is watched, not tested: never instrumented, since a sanitizer's own syscalls and faults would show in
# the report. cloister_program(dataplane dataplane.cpp)
function(cloister_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE cloister_warnings Threads::Threads)
  target_compile_options(${name} PRIVATE -g -fno-optimize-sibling-calls)
endfunction()

# A static library of one folder of src: cloister_module(breach SOURCES ... LIBRARIES ...)
function(cloister_module name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_library(cloister_${name} STATIC ${arg_SOURCES})
  target_link_libraries(cloister_${name} PUBLIC ${arg_LIBRARIES} PRIVATE cloister_options)
  target_include_directories(cloister_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
endfunction()

# A GoogleTest program whose cases become CTest cases: cloister_test(NAME correlate SOURCES ... LIBRARIES ... LABELS ...)
# TIMEOUT seconds for one case (120). SERIAL: no other test runs beside it.
function(cloister_test)
  cmake_parse_arguments(arg "SERIAL" "NAME;TIMEOUT" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(test_${arg_NAME} ${arg_SOURCES})
  target_link_libraries(test_${arg_NAME} PRIVATE ${arg_LIBRARIES} GTest::gtest_main cloister_options)
  if(CLOISTER_SANITIZE MATCHES "thread")
    # GCC 12's ThreadSanitizer gives up where the kernel spreads mappings wider than it knows (vm.mmap_rnd_bits > 28).
    set_target_properties(test_${arg_NAME} PROPERTIES CROSSCOMPILING_EMULATOR "setarch;-R")
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  gtest_discover_tests(test_${arg_NAME} TEST_PREFIX ${CLOISTER_TEST_PREFIX}${arg_NAME}. DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}" RUN_SERIAL "${arg_SERIAL}")
endfunction()

# A Python unittest file of which every class becomes a CTest case: what is tested are whole programs.
# cloister_script_test(NAME install SCRIPT test_install.py CLASSES Install Uninstall LABELS unit ENVIRONMENT A=b ...)
function(cloister_script_test)
  cmake_parse_arguments(arg "SERIAL" "NAME;SCRIPT;TIMEOUT" "CLASSES;LABELS;ENVIRONMENT" ${ARGN})
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  foreach(class ${arg_CLASSES})
    set(test ${CLOISTER_TEST_PREFIX}${arg_NAME}.${class})
    add_test(NAME ${test}
      COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT} ${class})
    set_tests_properties(${test} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}"
      ENVIRONMENT "${arg_ENVIRONMENT}" RUN_SERIAL "${arg_SERIAL}")
  endforeach()
endfunction()
