-- row_number
select id, row_number() over (partition by dept_id order by id) as n from employees;
-- row_number_all
select id, row_number() over (order by salary desc, id) as n from employees;
-- ranks
select id, rank() over (order by dept_id) as r, dense_rank() over (order by dept_id) as d from employees;
-- percent_rank
select id, percent_rank() over (partition by dept_id order by salary) as p, cume_dist() over (partition by dept_id order by salary) as c from employees;
-- ntile
select id, ntile(4) over (order by id) as q from employees;
-- lag_lead
select id, lag(salary) over (order by id) as before, lead(salary, 2) over (order by id) as after, lag(id, 3, -1) over (order by id) as third from employees;
-- first_last
select id, first_value(id) over (partition by dept_id order by id) as f, last_value(id) over (partition by dept_id order by id) as l from employees;
-- nth_value
select id, nth_value(id, 2) over (partition by dept_id order by id rows between unbounded preceding and unbounded following) as second from employees;
-- running_sum
select id, sum(amount) over (partition by product order by id) as total from sales;
-- running_sum_ties
select id, sum(quantity) over (partition by product order by quantity) as total from sales;
-- moving_average
select id, avg(amount) over (order by id rows between 2 preceding and current row) as mean from sales;
-- rows_following
select id, sum(quantity) over (order by id rows between 1 following and 3 following) as ahead from sales;
-- range_frame
select id, count(*) over (order by quantity range between 1 preceding and 1 following) as near from sales;
-- groups_frame
select id, sum(quantity) over (order by quantity groups between 1 preceding and current row) as near from sales;
-- whole_partition
select id, max(salary) over (partition by dept_id) as most, salary - avg(salary) over (partition by dept_id) as off from employees;
-- share_of_total
select id, amount / sum(amount) over () as share from sales;
-- count_star
select id, count(*) over (partition by dept_id) as n, count(salary) over (partition by dept_id) as m from employees;
-- two_windows
select id, row_number() over (partition by dept_id order by id) as a, row_number() over (partition by manager_id order by id desc) as b from employees;
-- named_window
select id, sum(salary) over w as s, count(*) over w as n from employees window w as (partition by dept_id order by id);
-- window_of_aggregate
select dept_id, sum(salary) as total, rank() over (order by sum(salary) desc) as place from employees group by dept_id;
-- top_per_group
select dept_id, id from (select dept_id, id, row_number() over (partition by dept_id order by salary desc, id) as n from employees) x where n <= 2;
-- qualify
select dept_id, id from employees qualify row_number() over (partition by dept_id order by id) = 1;
-- window_expression_keys
select id, sum(salary) over (partition by id % 3 order by id) as s from employees;
-- window_filter
select id, count(*) filter (where salary > 3000) over (partition by dept_id) as rich from employees;
-- window_then_filter
select id, d from (select id, salary - lag(salary) over (partition by dept_id order by id) as d from employees) x where d > 0;
-- window_order_limit
select id, rank() over (order by salary desc, id) as r from employees order by r limit 5;
-- min_max_frame
select id, min(amount) over (order by id rows between 3 preceding and 3 following) as lo, max(amount) over (order by id rows between 3 preceding and 3 following) as hi from sales;
-- null_order
select id, row_number() over (order by salary nulls first, id) as n from employees;
-- descending_range
select id, sum(quantity) over (order by quantity desc range between 2 preceding and current row) as s from sales;
-- window_over_join
select e.id, rank() over (partition by d.city order by e.salary desc, e.id) as r from employees e join departments d on e.dept_id = d.id;
-- nth_value_so_far
select id, nth_value(id, 3) over (partition by product order by amount, id) as third from sales where id <= 60;
-- nth_value_of_a_frame
select id, nth_value(amount, 2) over (order by id rows between 2 preceding and 1 following) as second from sales where id <= 60;
-- nth_value_of_peers
select id, nth_value(quantity, 2) over (partition by product order by quantity range between current row and unbounded following) as second from sales where id <= 60;
-- first_and_last_of_a_frame
select id, first_value(amount) over w as f, last_value(amount) over w as l from sales where id <= 60 window w as (partition by product order by id rows between 1 preceding and 2 following);
-- first_rows_by_rank
select product, region, quantity, r from (select *, rank() over (partition by product, region order by quantity desc) as r from sales) x where r < 3;
-- first_rows_by_dense_rank
select id, d from (select id, dense_rank() over (partition by region order by quantity) as d from sales) x where d = 2 or d = 1;
-- first_rows_with_peers
select region, quantity, n from (select region, quantity, row_number() over (partition by region order by quantity) as n from sales) x where n <= 4;
-- first_rows_of_nulls
select dept_id, salary, n from (select dept_id, salary, row_number() over (partition by dept_id order by salary desc nulls first) as n from employees) x where n between 1 and 3;
-- first_rows_of_all
select id, r from (select id, rank() over (order by amount desc) as r from sales) x where r <= 5;
-- first_rows_without_order
select count(*) as n, min(r) as first, max(r) as last from (select row_number() over (partition by emp_id) as r from sales) x where r <= 2;
-- first_rows_by_text_and_time
select emp_id, product, sold from (select emp_id, product, sold, row_number() over (partition by emp_id order by product desc, sold desc) as n from sales) x where n = 1;
-- first_rows_of_computed_keys
select m, id from (select id % 7 as m, id, row_number() over (partition by id % 7 order by -quantity, id) as n from sales) x where n <= 2 and m <> 3;
-- first_rows_beside_others
select id, n, total from (select id, row_number() over (partition by product order by id) as n, sum(quantity) over (partition by product order by id desc) as total from sales) x where n <= 2;
-- first_rows_used_twice
with numbered as (select id, product, row_number() over (partition by product order by amount desc, id) as n from sales) select a.id, b.id as other from numbered a join numbered b on a.product = b.product where a.n <= 2 and b.n = 3;
-- first_rows_of_a_qualified_rank
select id, product from sales qualify rank() over (partition by product order by quantity desc) <= 1;
-- second_rows
select product, id from (select product, id, row_number() over (partition by product order by id desc) as n from sales) x where n in (2, 4);
