use gateway::config::filter::FilterConfig;
use gateway::kernel::Filter;
use gateway_tests::kernel::FrameSpec;
#[test]
fn smoke() {
    let f = Filter::load(
        &FilterConfig {
            sources: 1024,
            ..Default::default()
        },
        &[8443],
    )
    .unwrap();
    println!("{:?}", f.test_run(&FrameSpec::default().build(), 1000000));
    println!("{:?} {:?}", f.counters(), f.status());
}
